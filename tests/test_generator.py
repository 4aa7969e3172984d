"""How the generator starts a round, on a tree of two numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssdkd_jax import generator

START = {"params": {"w": jnp.array([1.0, 2.0])}, "batch_stats": {"mean": jnp.array([0.0])}}
END = {"params": {"w": jnp.array([0.5, 4.0])}, "batch_stats": {"mean": jnp.array([7.0])}}
SUMMED = {"w": jnp.array([3.0, -1.0])}
INNER, OUTER = optax.sgd(0.5, momentum=0.9), optax.sgd(0.1)


def make(name):
    return {
        "sequential": lambda: generator.sequential(INNER),
        "reptile": lambda: generator.reptile(INNER, OUTER),
        "first_order": lambda: generator.first_order(INNER, OUTER),
    }[name]()


def inner_state_after_one_step():
    params = START["params"]
    return INNER.update({"w": jnp.ones(2)}, INNER.init(params), params)[1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sequential", [0.5, 4.0]),  # where the round ended
        ("reptile", [1 - 0.1 * (1 - 0.5), 2 - 0.1 * (2 - 4)]),  # start - lr (start - end)
        ("first_order", [1 - 0.1 * 3, 2 - 0.1 * -1]),  # start - lr sum of gradients
    ],
)
def test_next_round_starts_where_the_rule_says(name, expected):
    start = make(name)
    state = start.close(start.init(START), END, inner_state_after_one_step(), SUMMED)
    np.testing.assert_allclose(state.variables["params"]["w"], expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["sequential", "reptile", "first_order"])
def test_batch_norm_statistics_are_those_of_the_end(name):
    start = make(name)
    state = start.close(start.init(START), END, inner_state_after_one_step(), SUMMED)
    np.testing.assert_array_equal(state.variables["batch_stats"]["mean"], [7.0])


@pytest.mark.parametrize(("name", "momentum"), [("sequential", 1.0), ("reptile", 0.0), ("first_order", 0.0)])
def test_only_the_sequential_start_keeps_the_inner_momentum(name, momentum):
    start = make(name)
    state = start.close(start.init(START), END, inner_state_after_one_step(), SUMMED)
    np.testing.assert_array_equal(jax.tree.leaves(start.open(state))[0], [momentum, momentum])


def test_the_outer_optimiser_of_a_meta_start_remembers_earlier_rounds():
    start = generator.reptile(INNER, optax.sgd(0.1, momentum=0.5))
    state = start.init(START)
    for _ in range(2):
        moved = {**START, "params": jax.tree.map(lambda w: w - 1.0, state.variables["params"])}
        state = start.close(state, moved, None, SUMMED)
    # both rounds have gradient 1; the second step is 0.1 (1 + 0.5)
    np.testing.assert_allclose(state.variables["params"]["w"], np.array([1.0, 2.0]) - 0.1 - 0.15, rtol=1e-6)


@pytest.mark.parametrize("strength", [0.0, 3.0])
def test_latents_are_standard_normal_around_the_code_of_their_class(strength):
    codes = np.eye(4, dtype=np.float32)[np.arange(2000) % 4]
    z = np.asarray(generator.latents(jax.random.key(0), jnp.asarray(codes), 10, strength))
    assert z.shape == (2000, 10)
    centred = z - np.pad(strength * codes, ((0, 0), (0, 6)))
    assert np.abs(centred.mean(0)).max() < 5 / np.sqrt(2000)
    assert abs(centred.var() - 1) < 5 * np.sqrt(2 / z.size)


def test_a_latent_narrower_than_the_classes_is_plain_noise_without_a_code():
    key, codes = jax.random.key(0), jnp.eye(5)
    plain = np.asarray(jax.random.normal(key, (5, 1)))
    np.testing.assert_array_equal(np.asarray(generator.latents(key, codes, 1, 0.0)), plain)
