"""BatchNorm statistics over rounds: what is matched are those of a batch together with those of earlier rounds.

Optimised alone, a batch of 32 comes closer to the running statistics than 32 real images do: it fits them without
their sampling error, and all batches err alike. Together with its forerunners it makes up for what those lack.
Averages over rounds are of Fast-DFKD (Fang et al., AAAI 2022); that of the images in SSD-KD's buffer is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp

from ssdkd_jax import teacher
from ssdkd_jax.losses import Moments
from ssdkd_jax.types import Array, Network

Statistics = list[tuple[Array, Array]]
Average = Callable[[Array], Array]  # rounds before this one -> how much of the past stays when this one enters it


@chex.dataclass(frozen=True)
class Smoothing:
    """The scratch state of one round.

    Attributes:
        past: mean and variance [features] at each BatchNorm, averaged over earlier rounds.
        share: [], of the past in what is matched; 0 in the first round.
        stays: [], share of the past in the next round's past; 0 in the first round.
        last: mean and variance of the last batch of this round.
    """

    past: Statistics
    share: Array
    stays: Array
    last: Statistics


def exponential(momentum: float) -> Average:
    """The average of Fast-DFKD, from the first round on."""
    return lambda rounds: jnp.where(rounds > 0, momentum, 0.0)


def of_the_last(held: float) -> Average:
    """The mean over all rounds, and of about the last `held` of them once there are more: those that a buffer holds."""
    return lambda rounds: 1.0 - 1.0 / jnp.clip(rounds + 1.0, 1.0, max(held, 1.0))


def nothing(network: Network, image_shape: tuple[int, int, int]) -> Statistics:
    """The statistics of a teacher before the first round: zeros, which have no share in that round."""

    def statistics() -> Statistics:
        variables = network.init(jax.random.key(0))
        _, moments = teacher.apply_with_moments(network, variables, jnp.zeros((1, *image_shape)))
        return [(m.mean, m.var) for m in moments]

    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(statistics))


def begin(past: Statistics, rounds: Array, share: float, average: Average) -> Smoothing:
    """The scratch state of the round after `rounds` others; with a share of 0 each batch is matched alone."""
    return Smoothing(past=past, share=jnp.where(rounds > 0, share, 0.0), stays=average(rounds), last=past)


def smooth(moments: Sequence[Moments], s: Smoothing) -> tuple[list[Moments], Smoothing]:
    """(each statistic as (1 - share) * the batch's + share * the past's, scratch state that knows the batch)."""
    smoothed = [
        batch._replace(mean=mixed(mean, batch.mean, s.share), var=mixed(var, batch.var, s.share))
        for batch, (mean, var) in zip(moments, s.past, strict=True)
    ]
    return smoothed, s.replace(last=[(batch.mean, batch.var) for batch in moments])


def finish(s: Smoothing) -> Statistics:
    """The past of the next round: this round's last batch enters it."""
    return jax.tree.map(lambda past, last: mixed(past, last, s.stays), s.past, s.last)


def mixed(past: Array, batch: Array, share: Array) -> Array:
    """share * past + (1 - share) * batch."""
    return share * past + (1 - share) * batch
