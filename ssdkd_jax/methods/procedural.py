"""Distillation on procedural images alone, drawn anew for every batch; nothing is inverted and nothing kept. Ours.

For teachers without BatchNorm, whose inverted images are textures that mislead a student.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp

from ssdkd_jax import settings
from ssdkd_jax.engine import parallel
from ssdkd_jax.methods import LOGITS, Problem, unstored
from ssdkd_jax.settings import setting
from ssdkd_jax.sources import procedural
from ssdkd_jax.types import Array, Batch, Key, Method, Metrics, ModelState, Preview, Synthesis, Variables

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "procedural": {
        **LOGITS,
        "schedule.warmup": 0,
        "procedural.candidates": 4,
        "student.start_images": unstored.PREVIEWED,
        "student.start_procedural": 2048,
    }
}


@settings.section("procedural")
class Choice:
    """Which of the images that are drawn the student sees."""

    candidates: int = setting(1, "drawn for each that is kept; those of classes that are rare among them stay", least=1)


@dataclass(frozen=True)
class Settings:
    """What the method reads of a config."""

    procedural: Choice


@chex.dataclass(frozen=True)
class Drawn:
    """What a round shows of itself: images [B, H, W, D], and the rounds before it, int32 []."""

    images: Array
    rounds: Array


def make(s: Settings, problem: Problem) -> Method:
    """A method whose state is the number of its rounds."""
    axis, batch = problem.axis, problem.student_batch
    draw = make_draw(s.procedural.candidates, problem)

    def begin(rounds: Array, key: Key) -> Drawn:
        images = parallel.local_rows(procedural.draw(key, batch, problem.inputs.image_shape), axis)
        return Drawn(images=images, rounds=rounds)

    def finish(
        work: Drawn, rounds: Array, teacher_variables: Variables, student: ModelState, key: Key
    ) -> tuple[Array, Metrics]:
        del work, teacher_variables, student, key
        return rounds + 1, {}

    def sample(rounds: Array, teacher_variables: Variables, student_step: Array, key: Key) -> Batch:
        del rounds, student_step
        return draw(key, teacher_variables, batch)

    def preview(rounds: Array, teacher_variables: Variables, key: Key) -> Preview:
        drawn = draw(jax.random.fold_in(key, rounds), teacher_variables, unstored.previewed(axis))
        return unstored.preview(problem.task, drawn.images, drawn.teacher_logits)

    return Method(
        init=lambda key: jnp.zeros((), jnp.int32),
        synthesis=Synthesis(begin, lambda work, *_: (work, {}), finish, 1, images=lambda work: work.images),
        sample=sample,
        feedback=lambda rounds, *_: rounds,
        distillation_loss=problem.task.distillation_loss,
        preview=preview,
        images_made=lambda rounds, steps: rounds * batch + steps * batch * s.procedural.candidates,
    )


def make_draw(candidates: int, problem: Problem) -> Callable[[Key, Variables, int], Batch]:
    """(key, teacher variables, count) -> this device's part of `count` images, with the teacher's answers."""
    axis, shape = problem.axis, problem.inputs.image_shape

    def draw(key: Key, teacher_variables: Variables, count: int) -> Batch:
        key_drawn, key_chosen = jax.random.split(key)
        x = parallel.local_rows(procedural.draw(key_drawn, candidates * count, shape), axis)
        drawn = unstored.batch(problem, teacher_variables, x)
        if candidates == 1:
            return drawn
        p = problem.task.class_probabilities(drawn.teacher_logits)
        labels = parallel.all_rows(p.argmax(-1), axis)
        return unstored.rows(drawn, rarest(key_chosen, labels, count, problem.task.classes), axis)

    return draw


def rarest(key: Key, labels: Array, count: int, classes: int) -> Array:
    """`count` places drawn without replacement, each in proportion to 1 / the images of its class: int32 [count].

    Args:
        labels: int [M], M at least `count`.

    >>> import jax, jax.numpy as jnp
    >>> labels = jnp.array([0] * 90 + [1] * 10)
    >>> int((labels[rarest(jax.random.key(0), labels, 20, 2)] == 1).sum()) > 5
    True
    """
    frequency = jnp.bincount(labels, length=classes)[labels]
    return jax.lax.top_k(-jax.random.exponential(key, labels.shape) * frequency, count)[1]
