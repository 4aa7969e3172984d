"""SSD-KD (Liu et al., CVPR 2024): a small buffer, kept balanced and difficult, drawn by priority."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    student,
    teacher,
    terms,
)
from ssdkd_jax.errors import InputError, gathered
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
    student: student.Settings

    def faults(self) -> Iterator[str]:
        """Where the buffer does not hold a batch, or blended images are to have cached answers."""
        if self.buffer.size < max(self.synthesis.batch, self.student.batch):
            yield (
                f"buffer.size = {self.buffer.size} is smaller than a batch (synthesis.batch = {self.synthesis.batch}, "
                f"student.batch = {self.student.batch}); make it at least as large."
            )
        if self.mixup.mixup and self.cache.count:
            yield (
                f"views.mixup = {self.mixup.mixup} blends images about which the teacher is asked in every step, but "
                f"views.count = {self.cache.count} caches its answers; set one of them to 0."
            )


def make(s: Settings, problem: Problem) -> Method:
    """SSD-KD as a `Method`.

    Raises:
        InputError: where the settings do not fit the teacher, the images or the classes.
    """
    tx, inputs = s.generator.adam(), problem.inputs
    weights, network, latents = gathered(
        lambda: s.weights.allowed(problem.has_batch_norm),
        lambda: s.generator.network(inputs.image_shape, problem.axis, problem.compute),
        lambda: coded_latents(s, problem),
    )
    held = smoothing.of_the_last(s.buffer.size / s.synthesis.batch)
    recipe = s.synthesis.recipe(
        terms.usual_terms(weights, problem.task),
        inversion.Trained(tx, s.latents.adam(), optax.identity()),
        s.modulation.make(),
        smoothing.over_rounds(problem.teacher, inputs.image_shape, s.smoothing.bn_past, held),
    )
    return pool.make(
        pool.Pieces(
            generator=network,
            start=s.start.make(tx),
            latents=latents,
            recipe=recipe,
            slots=s.buffer.size,
            eviction=s.eviction,
            sampler=s.sampler.make(inputs.classes),
            beta=optax.linear_schedule(s.sampler.beta, 1.0, problem.student_steps),
            views=Views(s.views.view(), s.cache.count, s.mixup.schedule(problem.student_steps)),
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
