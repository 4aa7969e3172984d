"""A bank that holds every image of a run and is drawn uniformly: what Fast-DFKD, DeepInversion and CMI share.

It is SSD-KD's pool with as many slots as the run makes images, phi off, no eviction and no importance weights;
shapes are static, so the bank is as large from the start as it will be in the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssdkd_jax import augment, inversion, modulation, replay_buffer, sampler, smoothing, teacher, terms
from ssdkd_jax.generator import Start
from ssdkd_jax.methods import LOGITS, Problem, pool
from ssdkd_jax.methods.newcomers import Views
from ssdkd_jax.types import Method, Network, Synthesis

NO_EVICTION, NO_SMOOTHING = replay_buffer.Eviction(half_life=0.0, epsilon=0.0), smoothing.none()
PRESET: Mapping[str, Any] = {  # of all that have a bank
    **LOGITS,
    "student.temperature": 20.0,
    "views.count": 0,
    "synthesis.batch": None,  # that of the student
    "synthesis.flip": None,  # as the teacher's data were augmented
    "synthesis.shift": None,
}


@dataclass(frozen=True)
class Settings:
    """What every method with a bank reads of a config."""

    synthesis: inversion.Settings
    weights: terms.Weights
    views: augment.Settings
    cache: teacher.Cache

    def recipe(
        self,
        each: Sequence[terms.Term],
        optimisers: inversion.Trained,
        smoothed: smoothing.Smoothing = NO_SMOOTHING,
    ) -> inversion.Recipe:
        """How a batch of the bank is inverted: phi is off."""
        return self.synthesis.recipe(each, optimisers, modulation.off(), smoothed)

    def student_views(self) -> Views:
        """What the student sees."""
        return Views(self.views.view(), self.cache.count)


def make(
    network: Network,
    start: Start,
    latent_shape: tuple[int, ...],
    recipe: inversion.Recipe,
    views: Views,
    problem: Problem,
    slots: int | None = None,
    synthesis: Synthesis | None = None,
) -> Method:
    """The method that inverts by `recipe` and otherwise draws from the bank.

    Args:
        network, start, recipe, views: as of `pool.Pieces`.
        latent_shape: of z ~ N(0, I), whatever the targets.
        slots: None for as many as the run makes images.
        synthesis: as of `pool.make`.
    """
    pieces = pool.Pieces(
        generator=network,
        start=start,
        latents=lambda key, targets: jax.random.normal(key, (recipe.batch, *latent_shape), jnp.float32),
        recipe=recipe,
        slots=problem.rounds * recipe.batch if slots is None else slots,
        eviction=NO_EVICTION,
        sampler=sampler.uniform(),
        beta=optax.constant_schedule(0.0),
        views=views,
    )
    return pool.make(pieces, problem, synthesis)._replace(feedback=lambda state, *_: state)
