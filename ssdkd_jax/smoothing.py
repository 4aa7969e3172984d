"""BatchNorm statistics over rounds: what is matched are those of a batch together with those of earlier rounds.

Optimised alone, a batch of 32 comes closer to the running statistics than 32 real images do: it fits them without
their sampling error, and all batches err alike. Together with its forerunners it makes up for what those lack.
Averages over rounds are of Fast-DFKD (Fang et al., AAAI 2022); that of the images in SSD-KD's buffer is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from ssdkd_jax import settings, teacher
from ssdkd_jax.errors import InputError
from ssdkd_jax.losses import Moments
from ssdkd_jax.settings import setting
from ssdkd_jax.types import Array, Network

Statistics = list[tuple[Array, Array]]
Average = Callable[[Array], Array]  # rounds before this one -> how much of the past stays when this one enters it


@settings.section("synthesis")
class Settings:
    """How much of earlier rounds is matched."""

    bn_past: float = setting(
        0.0, "share of earlier rounds in the matched statistics; 0 matches each batch alone", least=0, below=1
    )


@chex.dataclass(frozen=True)
class Scratch:
    """The scratch state of one round.

    Attributes:
        past: mean and variance [features] at each BatchNorm, averaged over earlier rounds.
        share: [], of the past in what is matched; 0 in the first round.
        stays: [], share of the past in the next round's past; 0 in the first round.
        batch: mean and variance of this round's batch, whose images are kept.
    """

    past: Statistics
    share: Array
    stays: Array
    batch: Statistics


class Smoothing(NamedTuple):
    """How the matched statistics depend on earlier rounds.

    Attributes:
        init: () -> past, the statistics before the first round.
        begin: (past, rounds before this one) -> scratch.
        smooth: (moments of a batch, scratch) -> (moments to match, scratch that knows the batch).
        finish: scratch -> past of the next round.
    """

    init: Callable[[], Statistics]
    begin: Callable[[Statistics, Array], Scratch | tuple]
    smooth: Callable[[Sequence[Moments], Scratch | tuple], tuple[Sequence[Moments], Scratch | tuple]]
    finish: Callable[[Scratch | tuple], Statistics]


def none() -> Smoothing:
    """Each batch is matched alone; nothing is remembered."""
    return Smoothing(
        init=list, begin=lambda past, rounds: (), smooth=lambda moments, scratch: (moments, scratch), finish=list
    )


def over_rounds(network: Network, image_shape: tuple[int, int, int], share: float, average: Average) -> Smoothing:
    """A share of what is matched is of earlier rounds.

    Args:
        network: the teacher.
        share: in [0, 1); 0 matches each batch alone.
        average: over which rounds.

    Raises:
        ValueError: for another share.
    """
    if not 0 <= share < 1:
        raise InputError(
            f"synthesis.bn_past = {share} is the share of earlier rounds in the matched statistics, "
            "which leaves the batch some of them; choose one in [0, 1)."
        )

    def begin(past: Statistics, rounds: Array) -> Scratch:
        return Scratch(past=past, share=after_the_first(rounds, share), stays=average(rounds), batch=past)

    return Smoothing(lambda: zeros(network, image_shape), begin, smooth, finish)


def exponential(momentum: float) -> Average:
    """The average of Fast-DFKD, from the first round on."""
    return lambda rounds: after_the_first(rounds, momentum)


def of_the_last(held: float) -> Average:
    """The mean over all rounds, and of about the last `held` of them once there are more: those that a buffer holds."""
    return lambda rounds: 1.0 - 1.0 / jnp.clip(rounds.astype(jnp.float32) + 1.0, 1.0, max(held, 1.0))


def after_the_first(rounds: Array, share: float) -> Array:
    """`share`, float32 [], but 0 in the first round."""
    return jnp.where(rounds > 0, jnp.float32(share), 0.0)


def zeros(network: Network, image_shape: tuple[int, int, int]) -> Statistics:
    """The statistics of a teacher before the first round: zeros, which have no share in that round."""

    def statistics() -> Statistics:
        variables = network.init(jax.random.key(0))
        moments = teacher.observe(network, variables, jnp.zeros((1, *image_shape), jnp.float32)).moments
        return [(m.mean, m.var) for m in moments]

    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(statistics))


def smooth(moments: Sequence[Moments], scratch: Scratch) -> tuple[list[Moments], Scratch]:
    """(each statistic as (1 - share) * the batch's + share * the past's, scratch state that knows the batch)."""
    smoothed = [
        batch._replace(mean=mixed(mean, batch.mean, scratch.share), var=mixed(var, batch.var, scratch.share))
        for batch, (mean, var) in zip(moments, scratch.past, strict=True)
    ]
    return smoothed, scratch.replace(batch=[(batch.mean, batch.var) for batch in moments])


def finish(scratch: Scratch) -> Statistics:
    """The past of the next round: this round's batch enters it."""
    return jax.tree.map(lambda past, batch: mixed(past, batch, scratch.stays), scratch.past, scratch.batch)


def mixed(past: Array, batch: Array, share: Array) -> Array:
    """share * past + (1 - share) * batch."""
    return share * past + (1 - share) * batch
