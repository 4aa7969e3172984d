"""Each loss against numpy or a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssdkd_jax import losses


def logits(rng, *shape):
    return rng.normal(0, 3, shape).astype(np.float32)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 4, 5)])
def test_kl_divergence_is_that_of_numpy_and_keeps_pixels(rng, shape, temperature):
    t, s = logits(rng, *shape), logits(rng, *shape)
    value = losses.kl_divergence(t, s, temperature)
    assert value.shape == shape[:-1]
    np.testing.assert_allclose(value, tiny.kl(t / temperature, s / temperature), rtol=2e-5, atol=1e-6)


def test_kl_divergence_of_a_biased_coin_is_its_closed_form():
    p, q = 0.9, 0.3
    expected = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    value = losses.kl_divergence(jnp.log(jnp.array([[p, 1 - p]])), jnp.log(jnp.array([[q, 1 - q]])))
    np.testing.assert_allclose(value, [expected], rtol=1e-6)


def test_kl_divergence_ignores_a_shift_of_the_logits_and_is_zero_for_equal_ones(rng):
    t = logits(rng, 4, 6)
    np.testing.assert_allclose(losses.kl_divergence(t, t + 3.0), 0.0, atol=1e-5)


def test_distillation_gradient_is_temperature_times_the_difference_of_probabilities(rng):
    t, s, temperature = logits(rng, 5, 4), logits(rng, 5, 4), 3.0
    gradient = jax.grad(lambda x: losses.distillation(t, x, temperature).sum())(s)
    expected = temperature * (tiny.softmax(s / temperature) - tiny.softmax(t / temperature))
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_distillation_value_is_squared_temperature_times_kl(rng):
    t, s = logits(rng, 5, 4), logits(rng, 5, 4)
    np.testing.assert_allclose(losses.distillation(t, s, 3.0), 9.0 * tiny.kl(t / 3, s / 3), rtol=1e-4)


def test_cross_entropy_is_minus_the_log_probability_of_the_label(rng):
    x, labels = logits(rng, 6, 4), np.array([0, 1, 2, 3, 0, 2])
    expected = -np.log(tiny.softmax(x)[np.arange(6), labels])
    np.testing.assert_allclose(losses.cross_entropy(x, labels), expected, rtol=1e-5)


def test_adversarial_is_minus_kl_where_both_agree_and_zero_elsewhere():
    t = np.array([[3.0, 0.0], [3.0, 0.0], [0.0, 1.0]], np.float32)
    s = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 5.0]], np.float32)
    expected = -tiny.kl(t, s) * np.array([1, 0, 1])
    np.testing.assert_allclose(losses.adversarial(t, s), expected, rtol=1e-5, atol=1e-7)
    assert (expected[[0, 2]] < 0).all()


def test_adversarial_gradient_is_zero_for_samples_that_disagree():
    t, s = jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 1.0]])
    assert not jax.grad(lambda x: losses.adversarial(x, s).sum())(t).any()


@pytest.mark.parametrize("shape", [(9, 4), (5, 3, 2, 4)])
def test_batch_moments_are_mean_and_biased_variance_of_numpy(rng, shape):
    x = rng.normal(2, 3, shape).astype(np.float32)
    mean, var = losses.batch_moments(x)
    over = tuple(range(x.ndim - 1))
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(over), rtol=1e-5)
    np.testing.assert_allclose(var, x.astype(np.float64).var(over, ddof=0), rtol=1e-5)


def test_batch_norm_match_adds_unsquared_distances_over_layers():
    zero, three_four = jnp.zeros(2), jnp.array([3.0, 4.0])
    first = losses.Moments(three_four, zero, zero, zero)
    second = losses.Moments(zero, jnp.array([0.0, 2.0]), jnp.array([0.0, 1.0]), zero)
    np.testing.assert_allclose(losses.batch_norm_match([first, second]), 5.0 + 1.0 + 2.0, rtol=1e-6)


def test_batch_norm_match_of_equal_moments_is_zero_with_zero_gradient(rng):
    mean, var = jnp.asarray(rng.normal(size=3)), jnp.asarray(rng.random(3))

    def match(m, v):
        return losses.batch_norm_match([losses.Moments(m, v, mean, var)])

    assert match(mean, var) < 1e-9
    for gradient in jax.grad(match, argnums=(0, 1))(mean, var):
        np.testing.assert_array_equal(gradient, np.zeros(3))
