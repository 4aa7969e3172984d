"""What a run says is wrong with it."""

import logging

import jax.numpy as jnp
import numpy as np
import pytest

from ssdkd_jax.losses import Moments
from ssdkd_jax.run import health, indicators

WELL = {
    **{"agreement": 0.9, "fresh_kl": 0.1, "fresh_confidence": 0.8, "fresh_balance": 0.98, "fresh_asked": 0.8},
    **{"fresh_least": 0.5, "fresh_spread": 20.0, "fresh_within": 0.7, "fresh_bn": 2.0, "fresh_bn_sd": 0.02},
    **{"taught_agreement": 0.97, "taught_softness": 0.3, "skipped": 0.0},
    **{"taught_balance": 0.97, "taught_least": 0.6},
}
ILL = {
    "unsure teacher": {"fresh_confidence": 0.12},
    "few classes": {"taught_balance": 0.3, "taught_least": 0.0},
    "class missing": {"taught_least": 0.0},
    "images alike": {"fresh_spread": 1.1},
    "images of a class alike": {"fresh_within": 0.01},
    "statistics not matched": {"fresh_bn_sd": 3.0},
    "student does not follow": {"taught_agreement": 0.2, "agreement": 0.2},
    "student learnt its images by heart": {"taught_agreement": 0.99, "agreement": 0.4},
    "hard answers": {"taught_softness": 1e-6},
    "steps skipped": {"skipped": 0.2},
}
ALL = health.ON_THE_WAY + health.AT_THE_END


def test_a_run_that_goes_well_says_nothing():
    assert health.whole(WELL, 10) == []
    assert health.whole({}, 10) == []  # as of a method without indicators


@pytest.mark.parametrize("name", [symptom.name for symptom in ALL])
def test_each_symptom_is_named_alone_with_its_value_and_the_setting_that_helps(name, caplog):
    found = {**WELL, **ILL[name], "chance": 0.1}
    assert list(health.found(ALL, found)) == [name]
    with caplog.at_level(logging.WARNING):
        (sentence,) = health.whole({**WELL, **ILL[name]}, 10)
    assert sentence in caplog.text and "{" not in sentence and sentence.endswith(".")


def test_a_symptom_is_said_once_and_only_if_it_stays(caplog):
    watch, bad = health.Watch(10), {**WELL, **ILL["images alike"]}
    said = []
    for rounds, seen in enumerate([bad, WELL, bad, bad, bad]):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            watch.look(seen, rounds)
        said.append(len(caplog.records))
    assert said == [0, 0, 0, 1, 0]


def test_the_spread_of_images_is_that_of_their_covariances_eigenvalues():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3, 3, 1)).astype(np.float32) * np.linspace(0.1, 1, 9, dtype=np.float32).reshape(3, 3, 1)
    labels = rng.integers(0, 3, 40)
    found = indicators.diversity(jnp.asarray(x), jnp.eye(4)[labels], None)
    flat = x.reshape(40, -1).astype(np.float64)
    eigenvalues = np.linalg.eigvalsh(np.cov(flat.T))
    np.testing.assert_allclose(found["fresh_spread"], eigenvalues.sum() ** 2 / (eigenvalues**2).sum(), rtol=1e-4)
    within = sum(((flat[labels == c] - flat[labels == c].mean(0)) ** 2).sum() for c in range(3))
    np.testing.assert_allclose(found["fresh_within"], within / ((flat - flat.mean(0)) ** 2).sum(), rtol=1e-4)


def test_images_that_differ_in_one_direction_have_a_spread_of_one_and_images_of_a_class_alike_nothing_within():
    x = jnp.arange(8.0).reshape(8, 1, 1, 1) * jnp.ones((1, 4, 4, 1))
    found = indicators.diversity(x, jnp.eye(8), None)
    np.testing.assert_allclose([found["fresh_spread"], found["fresh_within"]], [1, 0], atol=1e-5)


def test_the_shift_at_batch_norms_is_counted_in_standard_deviations():
    one = Moments(jnp.array([3.0, 0.0]), jnp.ones(2), jnp.array([1.0, 0.0]), jnp.array([4.0, 4.0]))
    np.testing.assert_allclose(indicators.shift([one]), 0.5, rtol=1e-3)  # one deviation, and none
    np.testing.assert_allclose(indicators.shift([one, one._replace(mean=one.running_mean)]), 0.25, rtol=1e-3)


def test_the_class_that_is_reached_least_is_told_of_those_that_were_asked_for():
    means = {"classes": np.array([0.5, 0.5, 0.0]), "asked": np.array([0.5, 0.5, 0.0])}
    found = indicators.summary({**means, "reached": np.array([0.4, 0.05, 0.0])})
    np.testing.assert_allclose([found["fresh_asked"], found["fresh_least"]], [0.45, 0.1])
