"""BatchNorm statistics over rounds: what is matched are those of a batch together with those of the batches before it.

A batch of 32 real images misses the running statistics by more than optimised ones need to: matched alone, each batch
fits its own sampling error, and all batches err alike. Matched with its forerunners it makes up for what they lack.
The average over rounds is that of Fast-DFKD (Fang et al., AAAI 2022); its use in SSD-KD is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from ssdkd_jax import teacher
from ssdkd_jax.losses import Moments
from ssdkd_jax.types import Array, Network

Statistics = list[tuple[Array, Array]]


@chex.dataclass(frozen=True)
class Smoothing:
    """The scratch state of one round.

    Attributes:
        past: mean and variance [features] at each BatchNorm, averaged over the rounds before.
        momentum: [], their share in what is matched; 0 in the first round.
        last: mean and variance of the last batch of this round.
    """

    past: Statistics
    momentum: Array
    last: Statistics


def nothing(network: Network, image_shape: tuple[int, int, int]) -> Statistics:
    """The statistics of a teacher before the first round: zeros, which have no share in that round."""

    def statistics() -> Statistics:
        variables = network.init(jax.random.key(0))
        _, moments = teacher.apply_with_moments(network, variables, jnp.zeros((1, *image_shape)))
        return [(m.mean, m.var) for m in moments]

    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(statistics))


def begin(past: Statistics, rounds: Array, momentum: float) -> Smoothing:
    """The scratch state of the round after `rounds` others; with momentum 0 each batch is matched alone."""
    return Smoothing(past=past, momentum=jnp.where(rounds > 0, momentum, 0.0), last=past)


def smooth(moments: Sequence[Moments], s: Smoothing) -> tuple[list[Moments], Smoothing]:
    """(each statistic as (1 - momentum) * the batch's + momentum * the past's, scratch state that knows the batch)."""
    m = s.momentum
    smoothed = [
        batch._replace(mean=(1 - m) * batch.mean + m * mean, var=(1 - m) * batch.var + m * var)
        for batch, (mean, var) in zip(moments, s.past, strict=True)
    ]
    return smoothed, s.replace(last=[(batch.mean, batch.var) for batch in moments])


def finish(s: Smoothing) -> Statistics:
    """The past of the next round: this round's last batch enters it with the share 1 - momentum."""
    return jax.tree.map(lambda old, new: s.momentum * old + (1 - s.momentum) * new, s.past, s.last)
