"""Invariants of buffer, sampler and modulation for whatever contents: empty, nearly full, one class, duplicates."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdkd_jax import modulation, replay_buffer, sampler
from ssdkd_jax.replay_buffer import EMPTY, Index, Rows

SIZES = ((1, 1, 2), (12, 4, 5))  # N, B, C; few, since each is compiled
GAPS = st.sampled_from((0.0, 1e-30, 1e-6, 0.1, 1.0, 30.0, 1e6))
CONFIDENCES = st.sampled_from((0.0, 1e-7, 0.5, 1.0 - 1e-7, 1.0))
check = settings(max_examples=20, deadline=None, derandomize=True)
RULES = {
    "uniform": sampler.uniform(),
    "priority": sampler.priority(0.6, 0.05),
    "policy_gradient": sampler.policy_gradient(5, 0.6, 0.05, 1e-2, 1e-2),
}


@st.composite
def indices(draw, size, classes, lowest=EMPTY):
    """An index of `size` slots: any mixture of labels, or one class, or one label everywhere."""
    labels = st.one_of(st.integers(lowest, classes - 1), st.just(draw(st.integers(lowest, classes - 1))))
    columns = {
        "label": (labels, jnp.int32),
        "confidence": (CONFIDENCES, jnp.float32),
        "gap": (GAPS, jnp.float32),
        "filled": (st.integers(0, 3), jnp.int32),
        "drawn": (st.integers(0, 9), jnp.int32),
    }
    lists = {name: draw(st.lists(v, min_size=size, max_size=size)) for name, (v, _) in columns.items()}
    return Index(**{name: jnp.asarray(lists[name], dtype) for name, (_, dtype) in columns.items()})


@partial(jax.jit, static_argnums=3)
def update(buffer, newcomers, tag, classes):
    """One partial update as a method makes it; the images of the newcomers hold `tag`, tag + 1, ..."""
    worth = buffer.index.gap * modulation.difficulty(buffer.index.confidence, 2.0)
    crowd = replay_buffer.crowding(buffer.index, worth, newcomers.label, classes)
    slots = replay_buffer.least_worth(buffer.index, worth, crowd, newcomers.label.shape[0])
    rows = rows_of(tag + jnp.arange(newcomers.label.shape[0]))
    return replay_buffer.put(buffer, slots, newcomers, rows, None), slots


def rows_of(tags):
    tags = jnp.asarray(tags, jnp.uint32)
    return Rows(images=tags[:, None].astype(jnp.uint8), seeds=tags, logits=tags[:, None].astype(jnp.float32))


@pytest.mark.parametrize(("slots", "batch", "classes"), SIZES)
@check
@given(data=st.data())
def test_any_sequence_of_updates_keeps_the_buffer_whole(slots, batch, classes, data):
    buffer, tag = replay_buffer.init(slots, slots, rows_of(np.zeros(1))), 1
    for _ in range(data.draw(st.integers(0, 5))):
        newcomers = data.draw(indices(batch, classes, lowest=0))
        before, held = buffer.index, set(np.asarray(buffer.shards.rows.seeds)) - {0}
        buffer, filled = update(buffer, newcomers, tag, classes)
        filled, seeds = np.asarray(filled), np.asarray(buffer.shards.rows.seeds)
        assert len(set(filled.tolist())) == batch  # no slot twice
        assert set(seeds[filled]) == set(range(tag, tag + batch))  # every newcomer is in
        assert set(seeds) - {0} <= held | set(range(tag, tag + batch))
        empty = int((~before.occupied).sum())
        assert int(buffer.index.occupied.sum()) == slots - max(0, empty - batch)  # none leaves while there is room
        np.testing.assert_array_equal(buffer.index.label[filled], newcomers.label)
        np.testing.assert_array_equal(np.asarray(buffer.shards.rows.images)[:, 0], seeds.astype(np.uint8))
        tag += batch
    counts = np.asarray(replay_buffer.class_counts(buffer.index, classes))
    label = np.asarray(buffer.index.label)
    np.testing.assert_array_equal(counts, np.bincount(label[label >= 0], minlength=classes))


@jax.jit
def refresh(index, slots, gaps):
    return replay_buffer.set_gaps(index, slots, gaps, jnp.ones(slots.shape, bool), jnp.int32(10))


@pytest.mark.parametrize(("slots", "batch", "classes"), SIZES)
@check
@given(data=st.data())
def test_refreshed_gaps_stay_within_what_was_measured(slots, batch, classes, data):
    index = data.draw(indices(slots, classes))
    drawn = np.array(data.draw(st.lists(st.integers(0, slots - 1), min_size=batch, max_size=batch)))
    gaps = np.array(data.draw(st.lists(GAPS, min_size=batch, max_size=batch)), np.float32)
    after = refresh(index, jnp.asarray(drawn), jnp.asarray(gaps))
    for slot in range(slots):
        measured = gaps[drawn == slot]
        low, high = (measured.min(), measured.max()) if measured.size else 2 * (float(index.gap[slot]),)
        assert low * (1 - 1e-6) <= float(after.gap[slot]) <= high * (1 + 1e-6)
        assert int(after.drawn[slot]) == (10 if measured.size else int(index.drawn[slot]))


@partial(jax.jit, static_argnums=(0, 2))
def drawn(name, index, batch, seed, beta):
    rule = RULES[name]
    state = rule.init(jax.random.key(0))
    log_pi = sampler.log_probabilities(rule.logits(state, index, jnp.int32(9)), index.occupied)
    slots = sampler.draw(jax.random.key(seed), log_pi, batch)
    learnt = rule.learn(state, index, slots, index.gap[slots], jnp.ones(slots.shape, bool), jnp.int32(9))
    return log_pi, slots, sampler.importance_weights(log_pi, slots, beta), learnt


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("slots", "batch", "classes"), SIZES)
@check
@given(data=st.data())
def test_draws_are_of_filled_slots_and_everything_is_finite(name, slots, batch, classes, data):
    index = data.draw(indices(slots, classes))
    filled = np.flatnonzero(index.occupied)
    if not filled.size:  # a run draws only after its first synthesis
        index = index.replace(label=index.label.at[0].set(0))
        filled = np.array([0])
    beta = data.draw(st.sampled_from((0.0, 0.4, 1.0)))
    log_pi, taken, weights, learnt = drawn(name, index, batch, data.draw(st.integers(0, 99)), beta)
    pi = np.exp(np.asarray(log_pi, np.float64))
    assert pi.sum() == pytest.approx(1.0, abs=1e-5)
    assert (pi[filled] > 0).all() and pi.sum() == pytest.approx(pi[filled].sum())
    assert set(np.asarray(taken).tolist()) <= set(filled.tolist())
    assert np.isfinite(weights).all() and (np.asarray(weights) > 0).all()
    for leaf in jax.tree.leaves(learnt):
        assert np.isfinite(leaf).all()


@partial(jax.jit, static_argnums=3)
def modulate(counts, labels, confidence, batch):
    phi = modulation.make(True, True, 2.0)(counts, labels, confidence)
    return phi, modulation.normalised(phi, 5.0, None), modulation.ask(counts, batch)


@pytest.mark.parametrize(("slots", "batch", "classes"), SIZES)
@check
@given(data=st.data())
def test_phi_is_bounded_and_the_classes_asked_for_are_a_distribution(slots, batch, classes, data):
    index = data.draw(indices(slots, classes))
    counts = replay_buffer.class_counts(index, classes)
    labels = jnp.maximum(index.label, 0)
    phi, weight, asked = (np.asarray(x) for x in modulate(counts, labels, index.confidence, batch))
    assert (phi >= 0).all() and (phi <= classes / (classes - 1) + 1e-6).all()
    assert (weight >= 0).all() and (weight <= 5.0).all()
    assert (asked >= 0).all() and asked.sum() == pytest.approx(1.0, abs=1e-5)
    assert asked[np.asarray(counts).argmin()] == pytest.approx(asked.max())
