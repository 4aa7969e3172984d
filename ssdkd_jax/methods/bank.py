"""A bank that holds every image of a run and is drawn uniformly: what Fast-DFKD, DeepInversion and CMI share.

It is SSD-KD's pool with as many slots as the run makes images, phi off, no eviction and no importance weights;
shapes are static, so the bank is as large from the start as it will be in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from ssdkd_jax import inversion, replay_buffer, sampler
from ssdkd_jax.generator import Start
from ssdkd_jax.methods import LOGITS, Problem, pool
from ssdkd_jax.methods.newcomers import Views
from ssdkd_jax.types import Array, Key, Method, Network

NO_EVICTION = replay_buffer.Eviction(half_life=0.0, epsilon=0.0)
PRESET: Mapping[str, Any] = {  # of all that have a bank
    **LOGITS,
    "student.temperature": 20.0,
    "views.count": 0,
    "synthesis.batch": None,  # that of the student
    "synthesis.flip": None,  # as the teacher's data were augmented
    "synthesis.shift": None,
}


def make(
    network: Network,
    start: Start,
    latents: Callable[[Key, Array], Array],
    recipe: inversion.Recipe,
    views: Views,
    problem: Problem,
    slots: int | None = None,
) -> Method:
    """The method that inverts by `recipe` and otherwise draws from the bank.

    Args:
        network, start, latents, recipe, views: as of `pool.Pieces`.
        slots: None for as many as the run makes images.
    """
    pieces = pool.Pieces(
        generator=network,
        start=start,
        latents=latents,
        recipe=recipe,
        slots=problem.rounds * recipe.batch if slots is None else slots,
        eviction=NO_EVICTION,
        sampler=sampler.uniform(),
        beta=optax.constant_schedule(0.0),
        views=views,
    )
    return pool.make(pieces, problem)._replace(feedback=lambda state, *_: state)


def normal_latents(recipe_batch: int, shape: tuple[int, ...]) -> Callable[[Key, Array], Array]:
    """(key, targets) -> z ~ N(0, I), [B, *shape], whatever the targets."""
    return lambda key, targets: jax.random.normal(key, (recipe_batch, *shape))
