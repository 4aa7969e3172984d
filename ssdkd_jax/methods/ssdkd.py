"""SSD-KD (Liu et al., CVPR 2024): a small buffer, kept balanced and difficult, drawn by priority."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optax

from ssdkd_jax import (
    augment,
    generator,
    inversion,
    modulation,
    replay_buffer,
    sampler,
    settings,
    smoothing,
    teacher,
    terms,
)
from ssdkd_jax.errors import InputError
from ssdkd_jax.methods import LOGITS, Problem, pool
from ssdkd_jax.methods.newcomers import Views
from ssdkd_jax.settings import setting
from ssdkd_jax.types import Array, Key, Method

ORDER = -1
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "ssdkd": {},
    "ssdkd_logits": LOGITS,
}


@settings.section("synthesis")
class ClassCode:
    """How the latent tells the class."""

    class_code: float = setting(4.0, "how far the asked class shifts the mean of z; 0 for z ~ N(0, I)", least=0)


@dataclass(frozen=True)
class Settings:
    """What SSD-KD reads of a config."""

    synthesis: inversion.Settings
    weights: terms.Weights
    smoothing: smoothing.Settings
    generator: generator.Settings
    start: generator.StartSettings
    latents: inversion.Latents
    code: ClassCode
    modulation: modulation.Settings
    buffer: replay_buffer.Size
    eviction: replay_buffer.Eviction
    sampler: sampler.Settings
    views: augment.Settings
    cache: teacher.Cache
    mixup: augment.Mixup


def make(s: Settings, problem: Problem) -> Method:
    """SSD-KD as a `Method`.

    Raises:
        ValueError: where the settings do not fit one another, the teacher or the classes.
    """
    if s.buffer.size < max(s.synthesis.batch, problem.student_batch):
        raise InputError(
            f"buffer.size = {s.buffer.size} is smaller than a batch (synthesis.batch = {s.synthesis.batch}, "
            f"student.batch = {problem.student_batch}); make it at least as large."
        )
    tx, inputs = s.generator.adam(), problem.inputs
    held = smoothing.of_the_last(s.buffer.size / s.synthesis.batch)
    recipe = s.synthesis.recipe(
        terms.usual_terms(s.weights.allowed(problem.has_batch_norm), problem.task),
        inversion.Trained(tx, s.latents.adam(), optax.identity()),
        s.modulation.make(),
        smoothing.over_rounds(problem.teacher, inputs.image_shape, s.smoothing.bn_past, held),
    )
    return pool.make(
        pool.Pieces(
            generator=s.generator.network(inputs.image_shape, problem.axis, problem.compute),
            start=s.start.make(tx),
            latents=coded_latents(s, problem),
            recipe=recipe,
            slots=s.buffer.size,
            eviction=s.eviction,
            sampler=s.sampler.make(inputs.classes),
            beta=optax.linear_schedule(s.sampler.beta, 1.0, problem.student_steps),
            views=student_views(s, problem.student_steps),
        ),
        problem,
    )


def coded_latents(s: Settings, problem: Problem) -> Callable[[Key, Array], Array]:
    """(key, targets) -> z with the code of each target.

    Raises:
        ValueError: where the latent is too small for a code.
    """
    if s.code.class_code and s.generator.latent < problem.inputs.classes:
        raise InputError(
            f"synthesis.latent = {s.generator.latent} cannot hold the code of {problem.inputs.classes} classes; "
            "make it at least as large."
        )

    def latents(key: Key, targets: Array) -> Array:
        return generator.latents(key, problem.task.target_codes(targets), s.generator.latent, s.code.class_code)

    return latents


def student_views(s: Settings, steps: int) -> Views:
    """What the student sees.

    Raises:
        ValueError: where blended images are asked for and the teacher's answers are cached.
    """
    if s.mixup.mixup and s.cache.count:
        raise InputError(
            f"views.mixup = {s.mixup.mixup} blends images about which the teacher is asked in every step, but "
            f"views.count = {s.cache.count} caches its answers; set one of them to 0."
        )
    return Views(s.views.view(), s.cache.count, s.mixup.schedule(steps))
