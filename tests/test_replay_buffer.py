"""The buffer against a plain Python model of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssdkd_jax import augment, replay_buffer
from ssdkd_jax.replay_buffer import Index, Rows

SLOTS, CLASSES, VIEWS = 20, 4, 2


def empty():
    example = Rows(
        images=jnp.zeros((1, 2, 2, 1), jnp.uint8), seeds=jnp.zeros(1, jnp.uint32), logits=jnp.zeros((1, VIEWS, CLASSES))
    )
    return replay_buffer.init(SLOTS, SLOTS, example)


def newcomers(rng, count, number):
    index = Index(
        label=jnp.asarray(rng.integers(0, CLASSES, count), jnp.int32),
        confidence=jnp.asarray(rng.random(count), jnp.float32),
        gap=jnp.asarray(rng.random(count), jnp.float32),
        filled=jnp.full(count, number, jnp.int32),
        drawn=jnp.full(count, number, jnp.int32),
    )
    rows = Rows(
        images=jnp.asarray(rng.integers(0, 256, (count, 2, 2, 1)), jnp.uint8),
        seeds=jnp.asarray(rng.integers(0, 2**32, count), jnp.uint32),
        logits=jnp.asarray(rng.normal(size=(count, VIEWS, CLASSES)), jnp.float32),
    )
    return index, rows


@jax.jit
def update(buffer, worth, index, rows):
    crowd = replay_buffer.crowding(buffer.index, worth, index.label, CLASSES)
    slots = replay_buffer.least_worth(buffer.index, worth, crowd, index.label.shape[0])
    return replay_buffer.put(buffer, slots, index, rows, None), slots


def evicted_by_hand(label, worth, arriving):
    """Greedy levelling: take the least worth of the largest class, newcomers counted, one at a time."""
    label = list(label)
    taken = [slot for slot, c in enumerate(label) if c < 0]
    left = {slot for slot, c in enumerate(label) if c >= 0}
    while len(taken) < len(arriving):
        size = {c: sum(label[s] == c for s in left) + list(arriving).count(c) for c in {label[s] for s in left}}
        largest = [s for s in left if size[label[s]] == max(size.values())]
        out = min(largest, key=lambda s: worth[s])
        left.remove(out)
        taken.append(out)
    return taken


def test_hundreds_of_partial_updates_keep_size_contents_and_histogram(rng):
    buffer, model = empty(), {}
    counts = jax.jit(lambda index: replay_buffer.class_counts(index, CLASSES))
    for number in range(300):
        index, rows = newcomers(rng, 3, number)
        worth = jnp.asarray(rng.random(SLOTS), jnp.float32)
        expected = evicted_by_hand(np.asarray(buffer.index.label), np.asarray(worth), np.asarray(index.label))
        buffer, slots = update(buffer, worth, index, rows)
        slots = np.asarray(slots).tolist()
        assert len(set(slots)) == 3
        assert set(slots) <= set(expected) if len(expected) > 3 else set(slots) == set(expected)
        for b, slot in enumerate(slots):
            model[slot] = (int(index.label[b]), np.asarray(rows.images[b]).tobytes(), int(rows.seeds[b]))
        histogram = np.bincount([label for label, *_ in model.values()], minlength=CLASSES)
        np.testing.assert_array_equal(counts(buffer.index), histogram)
        assert histogram.sum() == min(SLOTS, 3 * (number + 1)) == len(model)
    for slot, (label, image, seed) in model.items():
        assert int(buffer.index.label[slot]) == label
        assert np.asarray(buffer.shards.rows.images[slot]).tobytes() == image
        assert int(buffer.shards.rows.seeds[slot]) == seed


def test_an_empty_buffer_counts_nothing():
    np.testing.assert_array_equal(replay_buffer.class_counts(empty().index, CLASSES), np.zeros(CLASSES))
    assert not empty().index.occupied.any()


def test_empty_slots_are_filled_before_any_image_is_evicted(rng):
    buffer = empty()
    seen = []
    for number in range(SLOTS // 4):
        buffer, slots = update(buffer, jnp.full(SLOTS, -1.0), *newcomers(rng, 4, number))
        seen += np.asarray(slots).tolist()
    assert sorted(seen) == list(range(SLOTS))


def test_the_lowest_worth_of_an_overfull_class_leaves_first():
    label = jnp.array([0, 0, 0, 1, 1, 2], jnp.int32)
    worth = jnp.array([5.0, 1.0, 3.0, 0.0, 0.1, 0.2])
    index = empty().index
    index = jax.tree.map(lambda x: x[:6], index).replace(label=label)
    crowd = replay_buffer.crowding(index, worth, jnp.array([1, 2], jnp.int32), 3)
    np.testing.assert_array_equal(replay_buffer.least_worth(index, worth, crowd, 3), [3, 1, 4])


def test_rank_within_class_counts_the_better_slots_of_the_same_class(rng):
    label, worth = rng.integers(0, 3, 15), rng.random(15).astype(np.float32)
    expected = [sum((label == label[i]) & (worth > worth[i])) for i in range(15)]
    np.testing.assert_array_equal(replay_buffer.rank_within_class(jnp.asarray(label), jnp.asarray(worth)), expected)


ALL_MEASURED = jnp.ones(3, bool)


def test_set_gaps_averages_duplicates_and_leaves_the_others():
    index = empty().index.replace(gap=jnp.arange(SLOTS, dtype=jnp.float32), drawn=jnp.full(SLOTS, 3, jnp.int32))
    out = replay_buffer.set_gaps(index, jnp.array([4, 7, 4]), jnp.array([1.0, 5.0, 2.0]), ALL_MEASURED, jnp.int32(9))
    expected = np.arange(SLOTS, dtype=np.float32)
    expected[[4, 7]] = 1.5, 5.0
    np.testing.assert_allclose(out.gap, expected)
    assert [int(out.drawn[i]) for i in (4, 7, 0)] == [9, 9, 3]


def test_the_sums_of_a_batch_by_slot_are_numpys(rng):
    slots, values = rng.integers(0, SLOTS - 1, 64), rng.standard_normal(64).astype(np.float32)
    expected = np.zeros(SLOTS)
    np.add.at(expected, slots, values.astype(np.float64))
    found = replay_buffer.sums_by_slot(jnp.asarray(slots), jnp.asarray(values), SLOTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert len(set(slots)) < 64 and float(found[SLOTS - 1]) == 0.0


def test_gaps_that_are_not_of_the_slots_own_image_change_nothing(rng):
    index = empty().index.replace(gap=jnp.arange(SLOTS, dtype=jnp.float32), drawn=jnp.full(SLOTS, 3, jnp.int32))
    slots, gaps, measured = rng.integers(0, SLOTS, 40), rng.random(40).astype(np.float32), rng.random(40) < 0.4
    out = replay_buffer.set_gaps(index, jnp.asarray(slots), jnp.asarray(gaps), jnp.asarray(measured), jnp.int32(9))
    for slot in range(SLOTS):
        own = gaps[(slots == slot) & measured]
        assert float(out.gap[slot]) == pytest.approx(own.mean() if own.size else slot, rel=1e-6)
        assert int(out.drawn[slot]) == (9 if own.size else 3)
    assert set(slots[~measured]) - set(slots[measured])


def test_take_returns_what_put_stored(rng):
    index, rows = newcomers(rng, 3, 0)
    buffer = replay_buffer.put(empty(), jnp.array([5, 0, 11]), index, rows, None)
    back = replay_buffer.take(buffer, jnp.array([11, 5, 0]), None)
    order = np.array([2, 0, 1])
    for name in ("images", "seeds", "logits"):
        np.testing.assert_array_equal(getattr(back, name), np.asarray(getattr(rows, name))[order])


def test_every_uint8_survives_the_way_through_float():
    stored = jnp.arange(256, dtype=jnp.uint8)
    np.testing.assert_array_equal(augment.to_uint8(augment.to_float(stored)), stored)


@pytest.mark.parametrize(("value", "expected"), [(-0.5, 0), (1.5, 255), (0.4999 / 255, 0), (0.5001 / 255, 1)])
def test_float_images_are_rounded_and_clipped(value, expected):
    assert int(augment.to_uint8(jnp.array(value))) == expected
