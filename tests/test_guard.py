"""Steps that are not finite, by a step whose numbers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssdkd_jax.engine import guard, parallel


def step(carry, poison):
    """w <- w + poison, n <- n + 1, measuring w."""
    w, number, untouched = carry
    return (w + poison, number + 1, untouched), {"w": jnp.sum(w)}


GUARDED = guard.skipping(step, "walk", None)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_step_that_is_not_finite_leaves_the_numbers_and_moves_the_counters(poison):
    carry = jnp.array([1.0, 2.0]), jnp.int32(3), jnp.array(jnp.inf)
    (w, number, untouched), metrics = jax.jit(GUARDED)(carry, jnp.array([0.0, poison]))
    np.testing.assert_array_equal(w, [1.0, 2.0])
    assert (int(number), float(metrics["walk_skipped"]), float(untouched)) == (4, 1.0, np.inf)


def test_a_finite_step_is_the_step_itself_whatever_was_not_finite_before():
    carry = jnp.array([1.0, 2.0]), jnp.int32(3), jnp.array(jnp.nan)
    (w, number, _), metrics = jax.jit(GUARDED)(carry, jnp.array([0.5, 0.25]))
    np.testing.assert_array_equal(w, [1.5, 2.25])
    assert (int(number), float(metrics["w"]), float(metrics["walk_skipped"])) == (4, 3.0, 0.0)


def test_a_metric_that_is_not_finite_skips_the_step():
    carry = jnp.array([jnp.inf, 2.0]), jnp.int32(0), jnp.zeros(())
    (w, _, _), metrics = jax.jit(GUARDED)(carry, jnp.zeros(2) - 1)
    assert float(metrics["walk_skipped"]) == 1
    assert float(w[1]) == 2.0


@pytest.mark.eight_devices
def test_what_is_not_finite_on_one_device_is_skipped_on_all():
    poison = np.zeros((8, 1), np.float32)
    poison[5] = np.nan
    guarded = guard.skipping(step, "walk", parallel.AXIS)
    carry = np.ones((8, 1), np.float32), np.zeros(8, np.int32), np.zeros(8, np.float32)
    (w, _, _), metrics = jax.pmap(guarded, axis_name=parallel.AXIS)(carry, poison)
    np.testing.assert_array_equal(w, np.ones((8, 1)))
    np.testing.assert_array_equal(metrics["walk_skipped"], np.ones(8))


def test_a_step_without_numbers_is_never_skipped():
    guarded = guard.skipping(lambda number, _: (number + 1, {}), "nothing", None)
    number, metrics = jax.jit(guarded)(jnp.int32(3), jnp.zeros(()))
    assert (int(number), float(metrics["nothing_skipped"])) == (4, 0.0)


def history(*skipped):
    skipped = np.array(skipped, np.float32)
    return {
        "w": np.where(skipped, np.nan, 1.0),
        "v": np.ones_like(skipped),
        "filled": np.ones(1),  # of the round
        "walk_skipped": skipped,
    }


def test_the_limit_counts_steps_in_a_row_also_over_rounds():
    watch = guard.Watch(3)
    watch.check("walk", history(1, 1, 0, 1, 1), "round 1")
    watch.check("walk", history(0, 1, 1), "round 2")
    watch.check("other", history(1, 1, 1), "round 2")
    with pytest.raises(FloatingPointError, match=r"'w' is nan in round 3, step 1 \(3 skipped in a row\); the"):
        watch.check("walk", history(1, 0), "round 3")


def test_a_limit_of_one_stops_at_the_first():
    with pytest.raises(FloatingPointError, match=r"'w' is nan in round 1, step 2 \(1 skipped in a row\)"):
        guard.Watch(1).check("walk", history(0, 1), "round 1")


def test_where_every_loss_is_finite_it_was_the_gradient():
    only = {"w": np.ones(1), "walk_skipped": np.ones(1)}
    with pytest.raises(FloatingPointError, match="the gradient of walk is not finite in round 1, step 1"):
        guard.Watch(1).check("walk", only, "round 1")


def test_a_summary_is_the_mean_over_finite_steps_and_the_count_of_the_others():
    values = {**history(0, 1, 0), "never": np.full(3, np.nan)}
    found = guard.summary(values)
    assert (found["w"], found["walk_skipped"]) == (1.0, 1.0)
    assert np.isnan(found["never"])
