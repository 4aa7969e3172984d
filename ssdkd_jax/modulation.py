"""The modulating function phi: how much an image is worth, by the balance and difficulty it adds.

phi(x) = phi_div(x) * phi_diff(x). That phi has these two terms is the paper's; their formulas
are ours. phi is a weight and carries no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import chex
import jax.numpy as jnp
from jax import lax

from ssdkd_jax import settings
from ssdkd_jax.engine import parallel
from ssdkd_jax.settings import setting
from ssdkd_jax.types import Array

Phi = Callable[[Array, Array, Array], Array]


class Modulation(NamedTuple):
    """Where phi acts.

    Attributes:
        phi: (class_counts [C], labels [B], confidence [B]) -> phi [B].
        clip: upper bound of a normalised phi in the inversion loss; None where phi is 1 everywhere.
        ask: (class_counts, batch) -> class probabilities asked of the next batch.
        level_classes: whether eviction takes from the largest classes first.
    """

    phi: Phi
    clip: float | None
    ask: Callable[[Array, int], Array]
    level_classes: bool

    @property
    def active(self) -> bool:
        """Whether phi weights the inversion loss."""
        return self.clip is not None

    def weights(self, class_counts: Array, labels: Array, confidence: Array, axis: str | None) -> Array:
        """What weighs each sample's inversion loss: [B], of mean 1 over the global batch before it is clipped."""
        if not self.active:
            return jnp.ones_like(confidence)
        return normalised(self.phi(class_counts, labels, confidence), self.clip, axis)


@settings.section("modulation")
class Settings:
    """The terms of phi."""

    diversity: bool = setting(True, "phi_div; also class targets and eviction that even out the buffer")
    difficulty: bool = setting(False, "phi_diff")
    gamma: float = setting(2.0, "exponent of phi_diff", least=0)
    clip: float = setting(5.0, "upper bound of phi (mean 1) in the inversion loss", least=1)

    def make(self) -> Modulation:
        """The modulation with these terms."""
        phi = make(self.diversity, self.difficulty, self.gamma)
        return Modulation(phi, self.clip, ask if self.diversity else ask_evenly, self.diversity)


def off() -> Modulation:
    """phi = 1, classes asked for evenly: what methods without a modulating function do."""
    return Modulation(make(False, False, 0.0), None, ask_evenly, False)


def diversity(class_counts: Array, labels: Array) -> Array:
    """phi_div = (1 - n_c / sum n) * C / (C - 1): 1 for every class of a balanced buffer (ours).

    Args:
        class_counts: [C], n_c; all zero (an empty buffer) gives C / (C - 1).
        labels: int [B], the teacher's predictions.
    """
    classes = class_counts.shape[0]
    share = shares(class_counts)
    lacking = jnp.maximum(1.0 - share[labels], 0.0)  # a share of 1 may be rounded up
    return lacking * classes / (classes - 1)


def shares(class_counts: Array) -> Array:
    """n_c / sum n, float32 [C]; zeros for an empty buffer."""
    counts = class_counts.astype(jnp.float32)
    return counts / jnp.maximum(counts.sum(), 1.0)


def difficulty(confidence: Array, gamma: float) -> Array:
    """phi_diff = (1 - conf_t)^gamma, as in the focal loss (Lin et al., ICCV 2017)."""
    return jnp.maximum(1.0 - confidence, 0.0) ** gamma


def phi(class_counts: Array, labels: Array, confidence: Array, *, use_div: bool, use_diff: bool, gamma: float) -> Array:
    """phi(x) [B]; a term that is switched off is 1."""
    chex.assert_equal_shape((labels, confidence))
    weight = jnp.ones_like(confidence)
    if use_div:
        weight = weight * diversity(class_counts, labels)
    if use_diff:
        weight = weight * difficulty(confidence, gamma)
    return lax.stop_gradient(weight)


def make(use_div: bool, use_diff: bool, gamma: float) -> Phi:
    """(class_counts [C], labels [B], confidence [B]) -> phi [B]."""
    return partial(phi, use_div=use_div, use_diff=use_diff, gamma=gamma)


def normalised(weight: Array, clip: float, axis: str | None) -> Array:
    """Scaled to mean 1 over the global batch, then clipped at `clip`."""
    mean = parallel.mean(weight.mean(), axis)
    return jnp.minimum(weight / jnp.maximum(mean, 1e-12), clip)


def ask(class_counts: Array, batch: int) -> Array:
    """Class probabilities [C] for the next batch: proportional to what each class lacks (ours).

    A class lacks what it is short of the level that all would have, were the batch in and the
    buffer even: max(0, (sum n + B) / C - n_c). A balanced buffer gives 1 / C.
    """
    counts = class_counts.astype(jnp.float32)
    lack = jnp.maximum((counts.sum() + batch) / counts.shape[0] - counts, 0.0)
    return lack / lack.sum()


def ask_evenly(class_counts: Array, batch: int) -> Array:
    """1 / C for each class: the diversity term switched off."""
    del batch
    return jnp.full(class_counts.shape[0], 1.0 / class_counts.shape[0], jnp.float32)
