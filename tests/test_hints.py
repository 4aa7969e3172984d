"""Attention transfer: which maps are taken, and what their difference costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssdkd_jax import build, hints, models, optimization, student
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


def test_the_loss_is_the_mean_square_over_each_map_summed(rng):
    f_t, f_s = rng.random((2, 3, 10)).astype(np.float32)
    loss = hints.attention(250.0, ((4, 2), (2, 1))).loss(f_t, f_s)
    square = (f_t.astype(np.float64) - f_s) ** 2
    np.testing.assert_allclose(loss, 250 * (square[:, :8].mean(1) + square[:, 8:].mean(1)), rtol=1e-5)


def test_the_loss_of_equal_maps_is_zero_and_a_dead_map_has_a_finite_gradient(rng):
    hint = hints.attention(1.0, ((4, 2),))
    target = hints.attention_map(features(rng))
    np.testing.assert_array_equal(hint.loss(target, target), 0)
    gradient = jax.grad(lambda x: hint.loss(target, hints.attention_map(x)).sum())(jnp.zeros((3, 4, 2, 5)))
    assert np.isfinite(gradient).all()


def test_the_maps_of_a_wide_residual_network_are_the_outputs_of_its_groups():
    module = models.by_name("wrn16_1", 10)
    network = models.bind(module, WRN)
    variables, images = network.init(jax.random.key(0)), tiny.images(0, 2, WRN)
    names = [f"block{group}_layer1" for group in (1, 2, 3)]
    _, inner = module.apply(variables, images, False, capture_intermediates=lambda m, _: m.name in names)
    expected = [numpy_map(inner["intermediates"][name]["__call__"][0]) for name in names]
    hint = hints.attention(1.0, hints.shared_resolutions(network, network, WRN))
    logits, maps = hint.observe(network.apply, variables, images)
    np.testing.assert_allclose(maps, np.concatenate(expected, 1), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(logits, network.apply(variables, images))


@pytest.mark.parametrize(
    ("teacher", "student", "resolutions"),
    [
        ("wrn16_2", "wrn10_1", ((32, 32), (16, 16), (8, 8))),
        ("resnet34", "resnet18", ((32, 32), (16, 16), (8, 8), (4, 4))),
        ("vgg11", "resnet18", ((32, 32), (16, 16), (8, 8), (4, 4))),
        ("wrn40_2", "mobilenetv2", ((16, 16), (8, 8))),
    ],
)
def test_resolutions_that_a_pair_shares(teacher, student, resolutions):
    networks = [models.bind(models.by_name(name, 10), (32, 32, 3)) for name in (teacher, student)]
    assert hints.shared_resolutions(*networks, (32, 32, 3)) == resolutions


def test_a_pair_without_a_common_resolution_is_an_error(teacher_variables):
    config = tiny.make_config(student__model="tiny:Linear")
    with pytest.raises(ValueError, match=r"student\.attention .* no BatchNorm at a common resolution; set it to 0"):
        build.job(config, tiny.INPUTS, tiny.teacher_network(), teacher_variables)


def test_a_student_is_pulled_towards_the_teachers_maps(teacher_variables):
    network, tx = tiny.teacher_network(), optimization.sgd(0.5, 100, 0.0, 0.01)
    hint = hints.attention(250.0, ((4, 4),))
    images = tiny.images(3, 12)
    _, maps = hint.observe(network.apply, teacher_variables, images)
    state = optimization.init(network, tx, jax.random.key(2))
    own = network.apply(state.variables, images)
    batch = Batch(images=images, teacher_logits=own, weights=jnp.ones(12), slots=jnp.arange(12), hints=maps)
    step = jax.jit(student.make_step(network, classification.make(tiny.CLASSES, 4.0), hint, tx, None))

    def gap(state):
        (_, _), seen = hint.observe(network.train, state.variables, images)
        return float(hint.loss(maps, seen).mean())

    before = gap(state)
    for _ in range(8):
        state, _, _ = step(state, batch)
    assert gap(state) < 0.8 * before
