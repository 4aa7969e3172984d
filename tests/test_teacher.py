"""BatchNorm moments read through any linen module, and the fixed views of an image."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssdkd_jax import augment, losses, teacher


class TwoNorms(nn.Module):
    """A user's classifier: BatchNorm of the input, a pointwise layer, BatchNorm, mean over pixels."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.BatchNorm(not train, epsilon=1e-5)(images)
        x = nn.BatchNorm(not train, epsilon=1e-5)(nn.Dense(4)(x))
        return x.mean((1, 2))


@pytest.fixture(scope="module")
def own():
    network = tiny.bound(TwoNorms())
    variables = network.init(jax.random.key(0))
    stats = {
        "BatchNorm_0": {"mean": jnp.array([0.3]), "var": jnp.array([0.5])},
        "BatchNorm_1": {"mean": jnp.arange(4.0), "var": jnp.arange(1.0, 5.0)},
    }
    return network, {**variables, "batch_stats": stats}


def second_input(variables, images):
    """What the second BatchNorm sees, in numpy."""
    stats = variables["batch_stats"]["BatchNorm_0"]
    x = (np.asarray(images, np.float64) - np.asarray(stats["mean"])) / np.sqrt(np.asarray(stats["var"]) + 1e-5)
    dense = variables["params"]["Dense_0"]
    return x @ np.asarray(dense["kernel"], np.float64) + np.asarray(dense["bias"])


def with_moments_of(variables, images):
    """The variables with the running statistics that a batch has."""
    x = np.asarray(images, np.float64)
    stats = {"BatchNorm_0": {"mean": jnp.asarray(x.mean((0, 1, 2))), "var": jnp.asarray(x.var((0, 1, 2)))}}
    y = second_input({**variables, "batch_stats": stats}, images)
    stats["BatchNorm_1"] = {"mean": jnp.asarray(y.mean((0, 1, 2))), "var": jnp.asarray(y.var((0, 1, 2)))}
    return {**variables, "batch_stats": stats}


def test_moments_of_a_users_own_module_are_those_of_numpy_in_order(own):
    network, variables = own
    images = tiny.images(0)
    moments = teacher.observe(network, variables, images).moments
    assert len(moments) == 2
    for m, x, name in zip(
        moments, (images, second_input(variables, images)), ("BatchNorm_0", "BatchNorm_1"), strict=True
    ):
        np.testing.assert_allclose(m.mean, np.mean(x, (0, 1, 2)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(m.var, np.var(x, (0, 1, 2)), rtol=1e-4)
        np.testing.assert_array_equal(m.running_mean, variables["batch_stats"][name]["mean"])
        np.testing.assert_array_equal(m.running_var, variables["batch_stats"][name]["var"])


def test_watching_the_moments_does_not_change_the_logits(own):
    network, variables = own
    images = tiny.images(1)
    logits = teacher.observe(network, variables, images).logits
    np.testing.assert_array_equal(logits, network.apply(variables, images))


def test_match_is_zero_with_a_finite_gradient_for_a_batch_that_has_the_running_statistics(own):
    network, variables = own
    images = tiny.images(2)
    matched = with_moments_of(variables, images)

    @jax.jit
    def match(x, v):
        return losses.batch_norm_match(teacher.observe(network, v, x).moments)

    assert match(images, matched) < 1e-5
    assert match(images, variables) > 1.0
    assert jnp.isfinite(jax.grad(match)(images, matched)).all()


def test_match_of_another_batch_is_the_distance_of_its_moments(own):
    network, variables = own
    matched = with_moments_of(variables, tiny.images(2))
    other = tiny.images(3) * 0.5
    expected = 0.0
    for x, name in ((other, "BatchNorm_0"), (second_input(matched, other), "BatchNorm_1")):
        stats = matched["batch_stats"][name]
        expected += np.linalg.norm(np.mean(x, (0, 1, 2)) - stats["mean"])
        expected += np.linalg.norm(np.var(x, (0, 1, 2)) - stats["var"])
    value = losses.batch_norm_match(teacher.observe(network, matched, other).moments)
    assert float(value) == pytest.approx(expected, rel=1e-4)


def test_a_teacher_without_batch_norm_warns_and_turns_the_term_off():
    variables = tiny.bound(tiny.Linear(3)).init(jax.random.key(0))
    with pytest.warns(UserWarning, match="no BatchNorm, so the BatchNorm term is off"):
        assert teacher.batch_norm_weight(teacher.has_batch_norm(variables), None) == 0.0


def test_a_teacher_without_batch_norm_refuses_the_term_that_is_asked_for():
    variables = tiny.bound(tiny.Linear(3)).init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"synthesis\.bn = 2\.0 .* no BatchNorm"):
        teacher.batch_norm_weight(teacher.has_batch_norm(variables), 2.0)


def test_state_that_is_no_running_mean_and_variance_is_no_batch_norm():
    assert not teacher.has_batch_norm({"batch_stats": {"Dense_0": {"kernel/u": 0, "kernel/sigma": 1}}})
    assert teacher.has_batch_norm({"batch_stats": {"block": {"norm": {"mean": 0, "var": 1}}}})


@pytest.mark.parametrize(("asked", "given"), [(None, teacher.DEFAULT_BN_WEIGHT), (0.0, 0.0), (3.0, 3.0)])
def test_a_teacher_with_batch_norm_takes_the_weight_as_configured(own, asked, given):
    assert teacher.batch_norm_weight(teacher.has_batch_norm(own[1]), asked) == given


def all_views(image, shift):
    """Every flip and shift of an image, in numpy."""
    height, width, _ = image.shape
    views = []
    for mirrored in (image, image[:, ::-1]):
        padded = np.pad(mirrored, ((shift, shift), (shift, shift), (0, 0)))
        views += [padded[i : i + height, j : j + width] for i in range(2 * shift + 1) for j in range(2 * shift + 1)]
    return views


@pytest.fixture(scope="module")
def views():
    view, seeds, images = augment.make(True, 1), jnp.arange(12, dtype=jnp.uint32), tiny.images(4, 12)
    make = jax.jit(lambda numbers: teacher.seeds_to_views(view, seeds, numbers, images))
    return images, [np.asarray(make(jnp.full(12, number))) for number in range(4)], make


def test_view_zero_is_the_image_as_it_is(views):
    images, made, _ = views
    np.testing.assert_array_equal(made[0], images)


def test_every_other_view_is_a_flip_and_shift_and_they_differ(views):
    images, made, _ = views
    kinds = set()
    for number in (1, 2, 3):
        for image, view in zip(np.asarray(images), made[number], strict=True):
            matches = [k for k, candidate in enumerate(all_views(image, 1)) if np.array_equal(candidate, view)]
            assert matches
            kinds.add(matches[0])
    assert len(kinds) > 6
    assert max(kinds) >= 9 > min(kinds)


def test_a_view_is_the_same_each_time_and_in_a_mixed_batch(views):
    _, made, make = views
    mixed = np.asarray(make(jnp.arange(12) % 4))
    for row in range(12):
        np.testing.assert_array_equal(mixed[row], made[row % 4][row])


def test_no_augmentation_leaves_every_view_alone():
    image = tiny.images(5, 1)[0]
    np.testing.assert_array_equal(augment.make(False, 0)(jax.random.key(0), image), image)


def test_view_answers_are_the_teachers_answers_view_by_view(views, teacher_variables):
    images, made, _ = views
    network = tiny.teacher_network()
    view, seeds = augment.make(True, 1), jnp.arange(12, dtype=jnp.uint32)
    answer = partial(network.apply, teacher_variables)
    logits = teacher.view_answers(lambda x: {"logits": answer(x)}, view, seeds, images, 4)["logits"]
    assert logits.shape == (12, 4, tiny.CLASSES)
    for number in range(4):
        expected = network.apply(teacher_variables, jnp.asarray(made[number]))
        np.testing.assert_allclose(logits[:, number], expected, rtol=1e-4, atol=1e-5)
