"""Hints: which maps are taken, and what their difference costs."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssdkd_jax import build, hints, models, student
from ssdkd_jax.engine import optimization
from ssdkd_jax.methods import newcomers
from ssdkd_jax.tasks import classification
from ssdkd_jax.types import Batch

WRN = (8, 8, 1)


def features(rng, shape=(3, 4, 2, 5)):
    return rng.normal(0, 2, shape).astype(np.float32)


def numpy_map(x):
    q = (np.asarray(x, np.float64) ** 2).mean(-1).reshape(len(x), -1)
    return q / np.linalg.norm(q, axis=1, keepdims=True)


def test_a_map_is_the_normalised_energy_of_the_channels(rng):
    x = features(rng)
    np.testing.assert_allclose(hints.attention_map(x), numpy_map(x), rtol=1e-5)
    np.testing.assert_allclose(hints.attention_map(3 * x[..., ::-1]), numpy_map(x), rtol=1e-5)


def test_a_map_of_bfloat16_features_is_reduced_in_float32(rng):
    x = jnp.asarray(features(rng, (3, 16, 16, 300)), jnp.bfloat16)
    q = hints.attention_map(x)
    assert q.dtype == jnp.float32
    np.testing.assert_allclose(q, numpy_map(x), rtol=1e-5)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6, 1e30])
def test_cached_hints_of_any_size_are_finite_and_have_half_the_bytes(rng, size):
    maps = size * features(rng, (2, 3, 4, 4, 5))
    kept = newcomers.rows(None, None, (np.zeros((2, 3, 7)), (maps,)), 2).hints[0]
    assert kept.nbytes * 2 == maps[:, :2].nbytes
    np.testing.assert_allclose(np.asarray(kept, np.float32), maps[:, :2], rtol=2**-8)


def test_the_loss_is_the_mean_square_over_each_map_summed(rng):
    f_t, f_s = rng.random((2, 3, 10)).astype(np.float32)
    weights = np.float32([0.5, 1, 0.2])
    loss = hints.attention(250.0, ((4, 2), (2, 1))).loss(f_t, f_s, weights)
    square = (f_t.astype(np.float64) - f_s) ** 2
    expected = 250 * (weights * (square[:, :8].mean(1) + square[:, 8:].mean(1))).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_the_loss_of_equal_maps_is_zero_and_a_dead_map_has_a_finite_gradient(rng):
    hint, even = hints.attention(1.0, ((4, 2),)), jnp.ones(3)
    target = hints.attention_map(features(rng))
    assert hint.loss(target, target, even) == 0
    gradient = jax.grad(lambda x: hint.loss(target, hints.attention_map(x), even))(jnp.zeros((3, 4, 2, 5)))
    assert np.isfinite(gradient).all()


def test_the_maps_of_a_wide_residual_network_are_the_outputs_of_its_groups():
    module = models.by_name("wrn16_1", 10)
    network = models.bind(module, WRN)
    variables, images = network.init(jax.random.key(0)), tiny.images(0, 2, WRN)
    names = [f"block{group}_layer1" for group in (1, 2, 3)]
    _, inner = module.apply(variables, images, False, capture_intermediates=lambda m, _: m.name in names)
    expected = [numpy_map(inner["intermediates"][name]["__call__"][0]) for name in names]
    hint = hints.attention(1.0, tuple(hints.shared_resolutions(network, network, WRN)))
    logits, maps = hint.observe(network.apply, variables, images)
    np.testing.assert_allclose(maps, np.concatenate(expected, 1), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(logits, network.apply(variables, images))


def test_the_maps_are_the_inputs_of_batch_norm_in_order(rng):
    class Stages(nn.Module):
        @nn.compact
        def __call__(self, x):
            for features, stride in ((2, 1), (3, 1), (5, 2), (2, 4)):
                x = nn.Conv(features, (1, 1), strides=stride)(x)
                self.sow("saved", "x", x)
                x = nn.BatchNorm(True)(x)
            return x.mean((1, 2))

    module, x = Stages(), jnp.asarray(rng.random((2, 8, 8, 1)), jnp.float32)
    variables = {k: v for k, v in module.init(jax.random.key(0), x).items() if k != "saved"}
    (_, saved), maps = hints.maps(lambda v, x: module.apply(v, x, mutable=["saved"]), variables, x)
    assert set(maps) == {(8, 8), (4, 4)}  # a single pixel is no map
    for resolution, numbers in (((8, 8), (0, 1)), ((4, 4), (2,))):
        for seen, number in zip(maps[resolution], numbers, strict=True):
            np.testing.assert_array_equal(seen, saved["saved"]["x"][number])


@pytest.mark.parametrize(
    ("teacher", "student", "resolutions"),
    [
        ("wrn16_2", "wrn10_1", {(32, 32): 3, (16, 16): 2, (8, 8): 2}),
        ("resnet34", "resnet18", {(32, 32): 5, (16, 16): 5, (8, 8): 5, (4, 4): 5}),
        ("vgg11", "resnet18", {(32, 32): 1, (16, 16): 1, (8, 8): 2, (4, 4): 4}),
        ("wrn40_2", "mobilenetv2", {(16, 16): 4, (8, 8): 6}),
    ],
)
def test_resolutions_that_a_pair_shares(teacher, student, resolutions):
    networks = [models.bind(models.by_name(name, 10), (32, 32, 3)) for name in (teacher, student)]
    shared = hints.shared_resolutions(*networks, (32, 32, 3))
    assert list(shared.items()) == list(resolutions.items())


def test_a_pair_without_a_common_resolution_is_an_error(teacher_variables):
    config = tiny.make_config(student__model="tiny:Linear")
    with pytest.raises(ValueError, match=r"student\.attention .* no BatchNorm at a common resolution; set it to 0"):
        build.job(config, tiny.INPUTS, tiny.teacher_network(), teacher_variables)


def test_two_kinds_of_hints_at_once_are_an_error(teacher_variables):
    config = tiny.make_config(student__attention=1.0, student__regression=2.0)
    with pytest.raises(ValueError, match=r"attention = 1.0 and student.regression = 2.0 .* set one of them to 0"):
        build.job(config, tiny.INPUTS, tiny.teacher_network(), teacher_variables)


def numpy_unexplained(t, s, weights):
    """Mean over the teacher's channels of 1 - R^2 of weighted least squares with an intercept."""
    root = np.sqrt(np.repeat(np.asarray(weights, np.float64), t.shape[1] * t.shape[2]))[:, None]
    t, s = (root * np.asarray(f, np.float64).reshape(-1, f.shape[-1]) for f in (t, s))
    rest, whole = (t - x @ np.linalg.lstsq(x, t, rcond=None)[0] for x in (np.concatenate([s, root], 1), root))
    return ((rest**2).sum(0) / (whole**2).sum(0)).mean()


def test_what_a_regression_leaves_is_one_minus_the_coefficient_of_determination(rng):
    s = features(rng, (6, 8, 8, 3)) + 5
    t = s @ rng.normal(size=(3, 4)).astype(np.float32) + features(rng, (6, 8, 8, 4))
    weights = np.float32([1, 0.1, 0.5, 0.2, 0.9, 0.4])
    for w in (weights, np.ones(6, np.float32)):
        left = hints.unexplained([t], [s], w, None)[0]
        np.testing.assert_allclose(left, numpy_unexplained(t, s, w), rtol=1e-4)
        assert 0.1 < left < 0.9
    scaled = hints.unexplained([t], [s], 3 * weights, None)[0]
    np.testing.assert_allclose(scaled, hints.unexplained([t], [s], weights, None)[0], rtol=1e-5)


def test_maps_that_are_linear_in_the_students_leave_nothing_and_unrelated_ones_all(rng):
    s, w = features(rng, (16, 8, 8, 3)), np.ones(16, np.float32)
    assert abs(hints.unexplained([s @ np.float32([[1, 2], [0, 1], [3, -1]]) - 7], [s], w, None)[0]) < 1e-4
    assert hints.unexplained([features(rng, (16, 8, 8, 2))], [s], w, None)[0] > 0.99


def test_a_constant_channel_and_a_doubled_one_are_finite(rng):
    s = np.concatenate([features(rng, (4, 4, 4, 2))] * 2 + [np.ones((4, 4, 4, 1), np.float32)], -1)
    t, w = features(rng, (4, 4, 4, 2)), np.ones(4, np.float32)
    value, gradient = jax.value_and_grad(lambda s: hints.unexplained([t], [s], w, None)[0])(s)
    np.testing.assert_allclose(value, numpy_unexplained(t, s, w), rtol=1e-2)
    assert np.isfinite(gradient).all()


def test_maps_of_one_width_are_solved_together_and_each_as_by_itself(rng):
    widths, w = ((3, 4), (5, 4), (3, 4), (3, 4)), rng.random(6).astype(np.float32) + 0.5
    f_s, f_t = ([features(rng, (6, 8, 8, pair[of])) for pair in widths] for of in (0, 1))
    left = hints.unexplained(f_t, f_s, w, None)
    for found, t, s in zip(left, f_t, f_s, strict=True):
        np.testing.assert_allclose(found, numpy_unexplained(t, s, w), rtol=1e-4)
    text = str(jax.make_jaxpr(lambda t, s: hints.unexplained(t, s, w, None))(f_t, f_s))
    assert len(re.findall(r"= cholesky\b", text)) == 2
    assert not re.search(r"= lu\b", text)


def test_a_solution_is_numpys_ridge(rng):
    x, y = rng.standard_normal((50, 6)), rng.standard_normal((50, 2))
    gram, cross = x.T @ x, x.T @ y
    scale = 1 / np.sqrt(np.diag(gram) + hints.EPSILON)[:, None]
    expected = scale * np.linalg.solve(scale * gram * scale.T + hints.RIDGE * np.eye(6), scale * cross)
    (found,) = hints.least_squares([(jnp.asarray(gram, jnp.float32), jnp.asarray(cross, jnp.float32))])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_its_gradient_is_that_of_the_minimum_though_none_goes_through_the_linear_map(rng):
    t, s, w = features(rng, (3, 4, 4, 2)), features(rng, (3, 4, 4, 3)), np.float32([0.2, 1, 0.7])
    gradient = jax.grad(lambda s: hints.unexplained([t], [s], w, None)[0])(s)
    direction = features(rng, s.shape)
    slope = (numpy_unexplained(t, s + 1e-5 * direction, w) - numpy_unexplained(t, s - 1e-5 * direction, w)) / 2e-5
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-2)


def test_a_regression_over_eight_devices_is_that_over_one(rng):
    t, s, w = features(rng, (16, 4, 4, 5)), features(rng, (16, 4, 4, 3)), rng.random(16).astype(np.float32)
    loss = jax.value_and_grad(lambda s, t, w, axis: hints.unexplained([t], [s], w, axis)[0])
    split = [f.reshape(8, 2, *f.shape[1:]) for f in (s, t, w)]
    values, gradients = jax.vmap(lambda s, t, w: loss(s, t, w, "devices"), axis_name="devices")(*split)
    value, gradient = loss(s, t, w, None)
    np.testing.assert_allclose(values, [value] * 8, rtol=1e-4)
    np.testing.assert_allclose(gradients.reshape(s.shape) / 8, gradient, rtol=1e-3, atol=1e-6)


def test_of_a_deeper_network_the_maps_are_evenly_spaced_to_the_last():
    module = models.by_name("wrn28_1", 10)
    network = models.bind(module, WRN)
    variables, images = network.init(jax.random.key(0)), tiny.images(0, 2, WRN)
    _, found = hints.maps(network.apply, variables, images)
    _, seen = hints.observe_maps(network.apply, variables, images, counts={(8, 8): 5, (2, 2): 4})
    assert [len(found[r]) for r in ((8, 8), (4, 4), (2, 2))] == [9, 8, 8]
    expected = [found[8, 8][i] for i in (0, 2, 4, 6, 8)] + [found[2, 2][i] for i in (1, 3, 5, 7)]
    for one, other in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("hint", [hints.attention(250.0, ((4, 4),)), hints.regression(3.0, {(4, 4): 1}, None)])
def test_a_student_is_pulled_towards_the_teachers_maps(teacher_variables, hint):
    network, tx = tiny.teacher_network(), optimization.sgd(0.5, 100, 0.0, 0.01)
    images = tiny.images(3, 12)
    _, maps = hint.observe(network.apply, teacher_variables, images)
    state = optimization.init(network, tx, jax.random.key(2))
    own = network.apply(state.variables, images)
    batch = Batch(images=images, teacher_logits=own, weights=jnp.ones(12), slots=jnp.arange(12), hints=maps)
    step = jax.jit(student.make_step(network, classification.make(tiny.CLASSES, 4.0), hint, tx, None))

    def gap(state):
        (_, _), seen = hint.observe(network.train, state.variables, images)
        return float(hint.loss(maps, seen, batch.weights))

    before = gap(state)
    for _ in range(20):
        state, _, _ = step(state, batch)
    assert gap(state) < 0.8 * before
