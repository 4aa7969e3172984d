"""Distillation on images that are given, as a yardstick: what the student learns where the data may be touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssdkd_jax import augment, generator, inversion, modulation, replay_buffer, settings, smoothing
from ssdkd_jax.errors import InputError
from ssdkd_jax.methods import Problem, bank, pool, unstored
from ssdkd_jax.methods.deepinversion import pixels
from ssdkd_jax.methods.newcomers import Views
from ssdkd_jax.settings import setting
from ssdkd_jax.types import Array, Key, Method, Metrics, ModelState, Preview, Synthesis, Variables

ORDER = 1
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "real": {"given.images": -1, "schedule.warmup": 0},
    "real_small": {"given.images": 0, "schedule.warmup": 0},
}


@settings.section("given")
class Images:
    """Which images."""

    images: int = setting(0, "real images that it distils on; 0 for as many as the buffer holds, -1 for all", least=-1)


@dataclass(frozen=True)
class Settings:
    """What the yardstick reads of a config."""

    given: Images
    buffer: replay_buffer.Size
    views: augment.Settings


def make(s: Settings, problem: Problem) -> Method:
    """Uniform draws from the given images under the student's views, the teacher in the loop.

    Raises:
        ValueError: where there are fewer images than a batch, or none.
    """
    images, inputs = problem.images, problem.inputs
    if images is None:
        raise InputError("method.name = 'given' distils on given images, but none were handed to build.job.")
    if len(images) < problem.student_batch:
        raise InputError(
            f"{len(images)} given images are fewer than student.batch = {problem.student_batch}; lower the batch size."
        )
    network, start, views = pixels((0.0,), (1.0,)), generator.sequential(optax.identity()), Views(s.views.view(), 0)
    base = bank.make(network, start, inputs.image_shape, no_inversion(), views, problem, len(images), no_synthesis())

    def fill(empty: pool.State) -> pool.State:
        rows, index = empty.buffer.shards.rows, empty.buffer.index
        filled = np.pad(images, ((0, rows.images.shape[0] - len(images)), (0, 0), (0, 0), (0, 0)))
        shards = empty.buffer.shards.replace(rows=rows.replace(images=filled))
        index = index.replace(label=jnp.zeros_like(index.label))
        return empty.replace(buffer=empty.buffer.replace(index=index, shards=shards))

    return base._replace(fill=fill, preview=make_preview(problem), images_made=lambda rounds, steps: 0)


def no_inversion() -> inversion.Recipe:
    """The recipe of a pool that inverts nothing."""
    identity = optax.identity()
    view = augment.make(False, 0)
    optimisers = inversion.Trained(identity, identity, identity)
    return inversion.Recipe(1, 0, [], optimisers, view, modulation.off(), smoothing.none())


def no_synthesis() -> Synthesis:
    """A synthesis that makes nothing."""

    def finish(
        work: Array, state: pool.State, teacher_variables: Variables, student: ModelState, key: Key
    ) -> tuple[pool.State, Metrics]:
        return state.replace(round=state.round + 1), {}

    return Synthesis(begin=lambda state, key: state.round, step=lambda work, *_: (work, {}), finish=finish, steps=1)


def make_preview(problem: Problem) -> Callable[[pool.State, Variables, Key], Preview]:
    """(state, teacher variables, key) -> `unstored.previewed` of the images, over all devices."""
    axis = problem.axis

    def preview(state: pool.State, teacher_variables: Variables, key: Key) -> Preview:
        slots = jax.random.randint(key, (unstored.previewed(axis),), 0, state.buffer.index.label.shape[0], jnp.int32)
        images = augment.to_float(replay_buffer.take(state.buffer, slots, axis).images)
        return unstored.preview(problem.task, images, problem.teacher.apply(teacher_variables, images))

    return preview
