"""The small replay buffer: a fixed number of slots, partly replaced each round.

The heavy rows (images, view seeds, cached logits) are sharded over the devices; the index, a few
numbers per slot, is replicated, so its statistics are global without any communication.
Images are uint8: a generator's float32 output carries no more than the eye of an 8-bit camera,
and a buffer four times smaller travels four times faster.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp

from ssdkd_jax import settings
from ssdkd_jax.engine import parallel
from ssdkd_jax.settings import setting
from ssdkd_jax.types import Array, Metrics, Sharded

EMPTY = -1


@settings.section("buffer")
class Size:
    """How large it is."""

    size: int = setting(130, "N, slots", least=1)


@settings.section("buffer")
class Eviction:
    """What keeps a slot in the buffer."""

    half_life: float = setting(10.0, "rounds in which a slot's worth halves; 0 for never", least=0)
    epsilon: float = setting(0.05, "nats added to the gap in a slot's worth", least=0)


@chex.dataclass(frozen=True)
class Index:
    """What is known of each slot; every field has shape [N].

    Attributes:
        label: int32, the teacher's prediction; EMPTY where the slot is free.
        confidence: conf_t, in [0, 1].
        gap: delta, the last measured teacher-student gap, in nats.
        filled: int32, the round in which the slot was filled.
        drawn: int32, the student step at which it was last drawn and its gap measured (or filled).
    """

    label: Array
    confidence: Array
    gap: Array
    filled: Array
    drawn: Array

    @property
    def occupied(self) -> Array:
        """bool [N]."""
        return self.label != EMPTY


@chex.dataclass(frozen=True)
class Rows:
    """The contents of slots (or of a batch of newcomers); leading axis N (or B) over all devices.

    Attributes:
        images: uint8 [N, H, W, D].
        seeds: uint32 [N], which decide the fixed views.
        logits: [N, V, C], the teacher's answers to them.
        hints: a pytree of float16 or bfloat16 [N, V, ...], its hints on them, or None.
    """

    images: Array
    seeds: Array
    logits: Array
    hints: Any = None


@chex.dataclass(frozen=True)
class Buffer:
    """N slots: `index` is replicated, `shards.rows` split over the devices."""

    index: Index
    shards: Sharded


def init(slots: int, rows: int, example: Rows) -> Buffer:
    """An empty buffer.

    Args:
        slots: N.
        rows: allocated rows, N rounded up to the devices; those beyond N stay unused.
        example: shapes and dtypes of one batch of newcomers; its leading axis is ignored.
    """
    zeros = partial(jnp.zeros, slots)
    index = Index(
        label=jnp.full(slots, EMPTY, jnp.int32),
        confidence=zeros(jnp.float32),
        gap=zeros(jnp.float32),
        filled=zeros(jnp.int32),
        drawn=zeros(jnp.int32),
    )
    return Buffer(
        index=index, shards=Sharded(rows=jax.tree.map(lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype), example))
    )


def class_counts(index: Index, classes: int) -> Array:
    """n_c: int32 [C], filled slots by the teacher's prediction."""
    counts = jnp.bincount(jnp.where(index.occupied, index.label, classes), length=classes + 1)[:classes]
    return counts.astype(jnp.int32)


def worth(index: Index, phi: Array, epsilon: float, round_index: Array, half_life: float) -> Array:
    """What keeps a slot in the buffer: phi * (delta + eps), halved every `half_life` rounds; [N], ours.

    Args:
        phi: [N].
        epsilon: in nats.
        round_index: int [], this round's.
        half_life: in rounds; 0 for no ageing.
    """
    value = phi * (index.gap + epsilon)
    return value * jnp.exp2((index.filled - round_index).astype(value.dtype) / half_life) if half_life else value


def rank_within_class(label: Array, worth: Array) -> Array:
    """How many slots of the same class are worth more: int32 [N], 0 for the best of each class."""
    slots = label.shape[0]
    order = jnp.lexsort((-worth, label))
    sorted_label = label[order]
    first = jnp.searchsorted(sorted_label, sorted_label, side="left").astype(jnp.int32)
    return jnp.zeros(slots, jnp.int32).at[order].set(jnp.arange(slots, dtype=jnp.int32) - first)


def crowding(index: Index, worth: Array, newcomers: Array, classes: int) -> Array:
    """Rank of each slot in its class once the newcomers stand before it: [N].

    Evicting the highest ranks first takes from the largest classes until all are level.

    Args:
        worth: [N].
        newcomers: int [B], the labels that are about to enter.
    """
    arriving = jnp.bincount(newcomers, length=classes).astype(jnp.int32)
    return rank_within_class(index.label, worth) + arriving[index.label]


def least_worth(index: Index, worth: Array, crowd: Array, count: int) -> Array:
    """The `count` slots to fill next: int32 [count].

    Empty slots come first, then those with the highest crowding, then those worth least.
    """
    return jnp.lexsort((worth, -crowd, index.occupied))[:count].astype(jnp.int32)


def put(buffer: Buffer, slots: Array, index: Index, rows: Rows, axis: str | None) -> Buffer:
    """Fill `slots`.

    Args:
        slots: int [B], distinct, the same on all devices.
        index: what is known of the newcomers, [B] over all devices.
        rows: this device's newcomers, [B / devices, ...].
    """
    chex.assert_equal_shape((slots, *jax.tree.leaves(index)))
    chex.assert_tree_shape_prefix(rows, (slots.shape[0] // parallel.device_count(axis),))
    new_index = jax.tree.map(lambda old, new: old.at[slots].set(new.astype(old.dtype)), buffer.index, index)
    new_rows = jax.tree.map(lambda shard, new: parallel.put_rows(shard, slots, new, axis), buffer.shards.rows, rows)
    return Buffer(index=new_index, shards=Sharded(rows=new_rows))


def take(buffer: Buffer, slots: Array, axis: str | None) -> Rows:
    """This device's part [B / devices, ...] of the global batch `slots` [B]."""
    return jax.tree.map(lambda shard: parallel.take_rows(shard, slots, axis), buffer.shards.rows)


def set_gaps(index: Index, slots: Array, gaps: Array, measured: Array, step: Array) -> Index:
    """Refresh delta of the drawn slots; a slot drawn more than once gets its mean.

    Args:
        slots, gaps: [B] over all devices.
        measured: bool [B], False where a gap is not of the slot's own image; such a row changes nothing.
        step: int [], the student step.
    """
    chex.assert_equal_shape((slots, gaps, measured))
    times = sums_by_slot(slots, measured.astype(gaps.dtype), index.gap.shape[0])
    total = sums_by_slot(slots, jnp.where(measured, gaps, 0.0), index.gap.shape[0])
    gap = jnp.where(times > 0, total / jnp.maximum(times, 1.0), index.gap)
    return index.replace(gap=gap, drawn=jnp.where(times > 0, step, index.drawn))


def sums_by_slot(slots: Array, values: Array, count: int) -> Array:
    """The values of a batch summed by slot, 0 where a slot is not in it: [count].

    All devices get the same bits, since each sum runs over the whole batch and its slot's last row alone writes it; a
    scatter-add on a GPU leaves the order of its additions open.

    Args:
        slots, values: [B].
        count: N.
    """
    same = slots[:, None] == slots
    last = ~jnp.triu(same, 1).any(1)
    sums = jnp.where(same, values, 0.0).sum(1)
    return jnp.zeros(count, values.dtype).at[jnp.where(last, slots, count)].set(sums, mode="drop")


def summary(index: Index, classes: int) -> Metrics:
    """How full, how even and how hard the buffer is."""
    counts = class_counts(index, classes)
    filled = jnp.maximum(index.occupied.sum(), 1).astype(jnp.float32)
    return {
        "filled": filled,
        "smallest_class": counts.min(),
        "largest_class": counts.max(),
        "buffer_confidence": index.confidence.sum() / filled,
        "buffer_gap": index.gap.sum() / filled,
    }
