"""Draw probabilities, importance weights and the policy gradient, by enumeration of a small buffer."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssdkd_jax import replay_buffer, sampler
from ssdkd_jax.replay_buffer import Index

GAPS = np.array([0.5, 0.0, 2.0, 0.1, 0.7, 0.0], np.float32)
LABELS = np.array([0, -1, 1, 0, 2, -1])
FILLED = np.flatnonzero(LABELS >= 0)
EMPTY = np.flatnonzero(LABELS < 0)
ALPHA, EPSILON = 0.6, 0.05
ALL = jnp.ones(16, bool)  # every row is measured


def index():
    return Index(
        label=jnp.asarray(LABELS, jnp.int32),
        confidence=jnp.array([0.9, 0.0, 0.5, 0.7, 0.6, 0.0]),
        gap=jnp.asarray(GAPS),
        filled=jnp.zeros(6, jnp.int32),
        drawn=jnp.array([1, 0, 5, 2, 0, 0], jnp.int32),
    )


RULES = {
    "uniform": sampler.uniform(),
    "priority": sampler.priority(ALPHA, EPSILON),
    "policy_gradient": sampler.policy_gradient(3, ALPHA, EPSILON, 1e-2, 1e-2),
}


def trained_like(state):
    """The policy's state with an output layer that is not zero."""
    if state == ():
        return state
    noise = jax.random.normal(jax.random.key(5), state.params["params"]["Dense_1"]["kernel"].shape)
    params = {"params": {**state.params["params"], "Dense_1": {"kernel": noise}}}
    return state.replace(params=params)


def log_pi_of(rule):
    state = trained_like(rule.init(jax.random.key(0)))
    return sampler.log_probabilities(rule.logits(state, index(), jnp.int32(7)), index().occupied)


@pytest.mark.parametrize("name", RULES)
def test_pi_sums_to_one_over_filled_slots_and_is_zero_on_empty_ones(name):
    pi = np.exp(np.asarray(log_pi_of(RULES[name]), np.float64))
    assert pi.sum() == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_array_equal(pi[EMPTY], 0.0)
    assert (pi[FILLED] > 0).all()


def test_uniform_gives_every_filled_slot_the_same_probability():
    np.testing.assert_allclose(np.exp(log_pi_of(RULES["uniform"]))[FILLED], 0.25, rtol=1e-6)


def priority_by_hand():
    raw = (GAPS[FILLED].astype(np.float64) + EPSILON) ** ALPHA
    return raw / raw.sum()


def test_priority_is_the_power_rule():
    np.testing.assert_allclose(np.exp(log_pi_of(RULES["priority"]))[FILLED], priority_by_hand(), rtol=1e-5)


def test_an_untrained_policy_is_the_priority_rule():
    rule = RULES["policy_gradient"]
    logits = rule.logits(rule.init(jax.random.key(3)), index(), jnp.int32(7))
    pi = np.exp(sampler.log_probabilities(logits, index().occupied))
    np.testing.assert_allclose(pi[FILLED], priority_by_hand(), rtol=1e-5)


def test_a_policy_with_an_output_layer_leaves_the_priority_rule():
    assert np.abs(np.exp(log_pi_of(RULES["policy_gradient"]))[FILLED] - priority_by_hand()).max() > 0.05


@pytest.mark.parametrize("name", RULES)
def test_draws_have_marginals_pi_and_never_hit_an_empty_slot(name):
    log_pi, batch, times = log_pi_of(RULES[name]), 8, 3000
    draw = jax.jit(jax.vmap(lambda key: sampler.draw(key, log_pi, batch)))
    slots = np.asarray(draw(jax.random.split(jax.random.key(1), times)))
    pi = np.exp(np.asarray(log_pi, np.float64))
    for column in (slots[:, 0], slots[:, -1]):
        counts = np.bincount(column, minlength=6)
        assert counts[EMPTY].sum() == 0
        chi_square = ((counts - times * pi)[FILLED] ** 2 / (times * pi[FILLED])).sum()
        assert chi_square < 21.1  # the 0.0001 quantile at 3 degrees of freedom
    per_draw = np.stack([np.bincount(row, minlength=6) for row in slots])
    assert np.abs(per_draw - batch * pi).max() < 2  # stratified: never far from the expectation


def test_a_draw_of_rounding_excess_stays_on_filled_slots():
    occupied = jnp.arange(1000) < 997
    log_pi = sampler.log_probabilities(jax.random.normal(jax.random.key(0), (1000,)), occupied)
    draw = jax.jit(lambda key: sampler.draw(key, log_pi, 4096))
    assert max(int(draw(jax.random.key(seed)).max()) for seed in range(5)) < 997


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_importance_weights_are_the_normalised_power_and_have_mean_one_under_pi(beta):
    log_pi = log_pi_of(RULES["priority"])
    weights = np.asarray(sampler.importance_weights(log_pi, jnp.asarray(FILLED), beta))
    pi = priority_by_hand()
    raw = (4 * pi) ** -beta
    np.testing.assert_allclose(weights, raw / (pi * raw).sum(), rtol=1e-5)
    assert (pi * weights).sum() == pytest.approx(1.0, rel=1e-5)


def test_at_beta_one_the_weighted_draw_is_the_plain_mean_over_the_buffer(rng):
    log_pi, values = log_pi_of(RULES["policy_gradient"]), rng.normal(size=4)
    weights = np.asarray(sampler.importance_weights(log_pi, jnp.asarray(FILLED), 1.0))
    expected = sum(np.exp(log_pi[slot]) * w * v for slot, w, v in zip(FILLED, weights, values, strict=True))
    assert expected == pytest.approx(values.mean(), rel=1e-4)


def policy_logits(params):
    return sampler.priority_logits(index(), ALPHA, EPSILON) + sampler.Policy().apply(
        params, sampler.features(index(), 3, EPSILON, jnp.int32(7))
    )


@pytest.mark.parametrize("baseline", [0.0, 1.7])
def test_reinforce_gradient_is_in_expectation_that_of_the_expected_reward(baseline):
    params = trained_like(RULES["policy_gradient"].init(jax.random.key(0))).params
    reward = jnp.array([1.0, 9.0, -0.5, 2.0, 0.3, 9.0])
    occupied = index().occupied

    def expected_reward(p):
        pi = jnp.exp(sampler.log_probabilities(policy_logits(p), occupied))
        return jnp.sum(jnp.where(occupied, pi * reward, 0.0))

    @jax.jit
    def estimate(p, slot):
        credit = jax.nn.one_hot(slot, 6) * (reward[slot] - baseline)
        return jax.grad(sampler.reinforce_loss)(p, policy_logits, occupied, credit, 0.0)

    pi = np.exp(sampler.log_probabilities(policy_logits(params), occupied))
    estimates = [jax.tree.map(lambda g, slot=slot: pi[slot] * g, estimate(params, jnp.int32(slot))) for slot in FILLED]
    mean = jax.tree.map(lambda *parts: -sum(parts), *estimates)
    exact = jax.jit(jax.grad(expected_reward))(params)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(exact)) > 1e-2
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), mean, exact)


def test_entropy_bonus_has_the_gradient_of_the_entropy():
    logits, occupied = jnp.array([0.3, -1.0, 2.0, 0.1, 0.7, 0.0]), index().occupied
    gradient = jax.grad(sampler.reinforce_loss)(logits, lambda x: x, occupied, jnp.zeros(6), 0.5)
    pi = np.exp(np.asarray(logits, np.float64))[FILLED]
    pi /= pi.sum()
    entropy = -(pi * np.log(pi)).sum()
    expected = np.zeros(6)
    expected[FILLED] = 0.5 * pi * (np.log(pi) + entropy)  # minus the gradient of 0.5 H
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_features_are_standardised_over_filled_slots_and_zero_on_empty_ones():
    values = np.asarray(sampler.features(index(), 3, EPSILON, jnp.int32(7)))
    share, age = np.array([2, 1, 2, 1]) / 4, np.log1p(7 - np.array([1, 5, 2, 0]))
    raw = np.stack([np.log(GAPS[FILLED] + EPSILON), [0.9, 0.5, 0.7, 0.6], share, age], 1)
    np.testing.assert_allclose(values[FILLED], (raw - raw.mean(0)) / raw.std(0), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(values[EMPTY], 0.0)


def test_policy_learns_to_prefer_slots_whose_gap_drops():
    rule = sampler.policy_gradient(3, ALPHA, EPSILON, lr=0.02, entropy=0.0)
    stale, target = index(), 3
    pay = jnp.zeros(6).at[target].set(1.0)

    @jax.jit
    def play(state, key):
        log_pi = sampler.log_probabilities(rule.logits(state, stale, jnp.int32(7)), stale.occupied)
        slots = sampler.draw(key, log_pi, 16)
        return rule.learn(state, stale, slots, stale.gap[slots] - pay[slots], ALL, jnp.int32(7)), jnp.exp(log_pi)

    state = rule.init(jax.random.key(0))
    history = []
    for key in jax.random.split(jax.random.key(1), 60):
        state, pi = play(state, key)
        history.append(float(pi[target]))
    assert history[-1] > 3 * history[0]
    assert 0.0 < float(state.baseline) < 1.0


def test_a_policy_learns_from_measured_rows_alone():
    rule = RULES["policy_gradient"]
    learn, state = jax.jit(rule.learn), trained_like(rule.init(jax.random.key(0))).replace(baseline=jnp.float32(0.3))
    slots, gaps = jnp.array([0, 2, 4, 3, 2]), jnp.array([0.1, 99.0, 1.3, 0.2, -99.0])
    measured = jnp.array([True, False, True, True, False])
    found = learn(state, index(), slots, gaps, measured, jnp.int32(9))
    alone = learn(state, index(), slots[measured], gaps[measured], ALL[:3], jnp.int32(9))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, alone)
    reward = np.mean([0.5 - 0.1, 0.7 - 1.3, 0.1 - 0.2])
    assert float(found.baseline) == pytest.approx(0.9 * 0.3 + 0.1 * reward, rel=1e-5)
    without = learn(state, index(), slots, gaps, jnp.zeros(5, bool), jnp.int32(9))
    jax.tree.map(np.testing.assert_array_equal, without, state)
    assert not np.array_equal(found.params["params"]["Dense_0"]["kernel"], state.params["params"]["Dense_0"]["kernel"])


@pytest.mark.parametrize("name", ["uniform", "priority"])
def test_rules_that_do_not_learn_keep_their_state(name):
    rule = RULES[name]
    assert rule.learn(rule.init(jax.random.key(0)), index(), jnp.array([0]), jnp.ones(1), ALL[:1], jnp.int32(1)) == ()


def test_priority_forgets_a_slot_that_was_fitted():
    fitted = replay_buffer.set_gaps(index(), jnp.array([2]), jnp.array([0.0]), ALL[:1], jnp.int32(8))
    logits = sampler.priority_logits(fitted, ALPHA, EPSILON)
    assert int(jnp.argmax(jnp.where(index().occupied, logits, -jnp.inf))) == 4
