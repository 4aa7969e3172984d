"""phi, the class probabilities that are asked for, and the targets drawn from them."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssdkd_jax import modulation
from ssdkd_jax.tasks import classification


def test_diversity_is_one_for_every_class_of_a_balanced_buffer():
    np.testing.assert_allclose(modulation.diversity(jnp.full(5, 8), jnp.arange(5)), np.ones(5), rtol=1e-6)


def test_diversity_is_the_share_of_other_classes_scaled():
    counts = np.array([6, 3, 1, 0])
    expected = (1 - counts / 10) * 4 / 3
    np.testing.assert_allclose(modulation.diversity(jnp.asarray(counts), jnp.arange(4)), expected, rtol=1e-6)


def test_diversity_of_an_empty_buffer_is_even_and_finite():
    np.testing.assert_allclose(modulation.diversity(jnp.zeros(4, int), jnp.arange(4)), np.full(4, 4 / 3), rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_difficulty_is_the_focal_weight(gamma):
    confidence = np.array([0.1, 0.5, 0.9, 1.0], np.float32)
    expected = [(1 - c) ** gamma for c in confidence]
    np.testing.assert_allclose(modulation.difficulty(jnp.asarray(confidence), gamma), expected, rtol=1e-5)


def test_difficulty_takes_a_confidence_rounded_above_one():
    assert modulation.difficulty(jnp.array([1.0 + 1e-6]), 0.5) == 0


@pytest.mark.parametrize(("use_div", "use_diff"), [(False, False), (True, False), (False, True), (True, True)])
def test_phi_is_the_product_of_the_terms_switched_on(use_div, use_diff):
    counts, labels, confidence = np.array([6, 3, 1]), np.array([0, 2, 2]), np.array([0.5, 0.8, 0.4], np.float32)
    expected = np.ones(3)
    if use_div:
        expected = expected * (1 - counts[labels] / 10) * 1.5
    if use_diff:
        expected = expected * (1 - confidence) ** 2
    value = modulation.make(use_div, use_diff, 2.0)(jnp.asarray(counts), jnp.asarray(labels), jnp.asarray(confidence))
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_phi_carries_no_gradient():
    phi = modulation.make(True, True, 2.0)
    gradient = jax.grad(lambda c: phi(jnp.array([1, 2]), jnp.array([0, 1]), c).sum())(jnp.array([0.5, 0.6]))
    assert not gradient.any()


def test_normalised_weights_have_mean_one_where_nothing_is_clipped(rng):
    weight = rng.random(10).astype(np.float32) + 0.5
    np.testing.assert_allclose(modulation.normalised(weight, 100.0, None), weight / weight.mean(), rtol=1e-5)


def test_normalised_weights_are_clipped_after_scaling():
    value = modulation.normalised(jnp.array([1.0, 1.0, 1.0, 97.0]), 2.0, None)
    np.testing.assert_allclose(value, [0.04, 0.04, 0.04, 2.0], rtol=1e-5)


def test_normalised_weights_of_an_all_certain_batch_are_finite():
    np.testing.assert_array_equal(modulation.normalised(jnp.zeros(3), 5.0, None), np.zeros(3))


def test_a_balanced_buffer_is_asked_evenly():
    np.testing.assert_allclose(modulation.ask(jnp.full(4, 7), 8), np.full(4, 0.25), rtol=1e-6)


def test_a_short_class_is_asked_for_what_it_lacks():
    counts, batch = np.array([10, 8, 0]), 6
    level = (counts.sum() + batch) / 3
    lack = np.maximum(level - counts, 0)
    asked = modulation.ask(jnp.asarray(counts), batch)
    np.testing.assert_allclose(asked, lack / lack.sum(), atol=1e-6)
    assert asked[2] == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_asked_probabilities_sum_to_one_and_are_lower_for_larger_classes(seed):
    counts = np.random.default_rng(seed).integers(0, 50, 10)
    asked = np.asarray(modulation.ask(jnp.asarray(counts), 16))
    assert asked.sum() == pytest.approx(1.0, abs=1e-5)
    assert (np.diff(asked[np.argsort(counts)]) <= 1e-6).all()


def test_asking_evenly_ignores_the_counts():
    np.testing.assert_allclose(modulation.ask_evenly(jnp.array([9, 0]), 4), [0.5, 0.5])


@pytest.mark.parametrize("seed", range(4))
def test_targets_have_the_asked_counts_within_one_of_each(seed):
    asked = np.array([0.5, 0.0, 0.3, 0.2], np.float32)
    targets = classification.targets(jax.random.key(seed), jnp.asarray(asked), 17)
    counts = Counter(np.asarray(targets).tolist())
    assert targets.shape == (17,)
    assert counts[1] == 0
    assert all(abs(counts[c] - 17 * asked[c]) < 1 for c in range(4))


def test_targets_come_in_random_order():
    even = jnp.full(2, 0.5)
    first, second = (np.asarray(classification.targets(jax.random.key(seed), even, 32)) for seed in (0, 1))
    assert (np.diff(first) < 0).any()
    assert not np.array_equal(first, second)


def test_targets_round_up_as_often_as_the_fraction_says():
    asked, n = jnp.array([0.3, 0.7]), 4
    draw = jax.jit(jax.vmap(lambda key: jnp.sum(classification.targets(key, asked, n) == 0)))
    mean = draw(jax.random.split(jax.random.key(0), 2000)).mean()
    assert abs(mean - n * 0.3) < 4 * np.sqrt(0.2 * 0.8 / 2000)
