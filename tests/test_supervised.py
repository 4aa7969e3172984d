"""Training and evaluation on labelled images, and the optimiser's schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from ssdkd_jax import augment, models
from ssdkd_jax.engine import evaluation, optimization, parallel, supervised
from ssdkd_jax.tasks import classification


def rates(lr, steps, warmup):
    """The learning rate of each step, read from unit gradients without momentum."""
    tx = optimization.sgd(lr, steps, 0.0, warmup)
    params = {"w": jnp.array(0.0)}

    def step(state, number):
        fresh = jax.tree.map(lambda x: jnp.zeros_like(x) if x.dtype == jnp.float32 else x, state)
        updates, state = tx.update({"w": jnp.array(1.0)}, fresh, params)
        return state, -updates["w"] / 1.9  # Nesterov: gradient + .9 of the trace, which is the gradient

    return np.asarray(jax.lax.scan(step, tx.init(params), jnp.arange(steps))[1])


def test_learning_rate_rises_linearly_and_falls_as_a_cosine():
    expected = [0.4 * i / 5 for i in (1, 2, 3, 4, 5)]
    expected += [0.4 * 0.5 * (1 + np.cos(np.pi * i / 16)) for i in range(1, 16)]
    np.testing.assert_allclose(rates(0.4, 20, 0.25), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 17])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 0.99])
def test_no_step_of_a_run_is_wasted(steps, warmup):
    found, peak = rates(0.3, steps, warmup), max(1, int(warmup * steps)) - 1
    assert len(found) == steps
    assert found.min() > 1e-4
    assert found[peak] == pytest.approx(0.3, rel=1e-6)
    assert found[0] == pytest.approx(0.3 / (peak + 1), rel=1e-6)
    assert (np.diff(found[: peak + 1]) > 0).all()
    assert (np.diff(found[peak:]) < 0).all()


def test_weight_decay_is_added_to_the_gradient_before_momentum():
    tx = optimization.sgd(0.5, 100, 0.1, 0.0)
    params, trace = {"w": jnp.array(2.0)}, 0.0
    state, w = tx.init(params), 2.0
    for number in range(4):
        updates, state = tx.update({"w": jnp.array(0.3)}, state, params)
        params = optax.apply_updates(params, updates)
        lr = 0.5 * 0.5 * (1 + np.cos(np.pi * number / 100))
        gradient = 0.3 + 0.1 * w
        trace = gradient + 0.9 * trace
        w -= lr * (gradient + 0.9 * trace)
    assert float(params["w"]) == pytest.approx(w, rel=1e-5)


@pytest.fixture(scope="module")
def separable():
    """Images whose brightest column tells the class."""
    rng = np.random.default_rng(0)
    labels = np.arange(50, dtype=np.int32) % 3
    images = rng.integers(0, 60, (50, *tiny.SHAPE), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 2 * label + 1] = 250
    return images, labels


@pytest.fixture(scope="module")
def fitted(separable):
    """A linear network after some epochs, and what `on_epoch` heard."""
    return fit(*separable)


def fit(images, labels, **more):
    """(network, state, what `on_epoch` heard) of a linear network after five epochs."""
    network = models.bind(tiny.Linear(3), tiny.SHAPE, axis=parallel.AXIS)
    recipe = supervised.Recipe(5, 16, optimization.sgd(0.1, 15, 0.0, 0.1), augment.make(False, 0))
    state = optimization.init(network, recipe.tx, jax.random.key(0))
    heard = []
    state = supervised.fit(
        network,
        classification.make(3, 1.0),
        recipe,
        parallel.to_devices(state),
        images,
        labels,
        jax.random.key(1),
        lambda epoch, state, metrics: heard.append((epoch, int(parallel.unreplicate(state.step)), metrics)),
        **more,
    )
    return network, state, heard


def test_fitting_visits_whole_batches_each_epoch_and_learns(fitted):
    _, _, heard = fitted
    assert [(epoch, step) for epoch, step, _ in heard] == [(e, 3 * e) for e in range(1, 6)]
    assert heard[-1][2]["loss"] < 0.5 * heard[0][2]["loss"]


def test_an_epoch_longer_than_the_set_goes_through_it_as_often_as_that_takes(separable):
    images, labels = (x[:20] for x in separable)
    _, repeated, _ = fit(np.resize(images, (50, *tiny.SHAPE)), np.resize(labels, 50))
    _, visited, heard = fit(images, labels, visits=50)
    assert [(epoch, step) for epoch, step, _ in heard] == [(e, 3 * e) for e in range(1, 6)]
    assert tiny.tree_equal(parallel.to_host(visited), parallel.to_host(repeated))
    times = np.bincount(supervised.shuffled(jax.random.key(2), 50, 20), minlength=20)
    assert sorted(times) == [2] * 10 + [3] * 10


def test_evaluation_over_padded_batches_is_the_plain_mean(fitted, separable):
    network, state, _ = fitted
    images, labels = separable
    evaluate = evaluation.make(network, classification.make(3, 1.0), images, labels, 20)  # 24 + 24 + 2 of 50
    metrics = evaluate(state.variables)
    logits = images.reshape(50, -1) / 255 @ np.asarray(parallel.to_host(state.variables)["params"]["Dense_0"]["kernel"])
    assert metrics["accuracy"] == pytest.approx((logits.argmax(-1) == labels).mean(), abs=1e-6)
    loss = -np.log(tiny.softmax(logits)[np.arange(50), labels]).mean()
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4)
