"""Distillation on images that are given, as a yardstick: what the student learns where the data may be touched."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ssdkd_jax import augment, inversion, replay_buffer
from ssdkd_jax.engine import parallel
from ssdkd_jax.methods import bank, ssdkd
from ssdkd_jax.types import Array, Key, Method, Metrics, ModelState, Preview, Synthesis, Task, Variables

PREVIEWED = 1000


def make(s: ssdkd.Settings, images: np.ndarray, models: inversion.Models, task: Task, axis: str | None) -> Method:
    """Uniform draws from `images`, uint8 [N, H, W, D], under the student's views, the teacher in the loop.

    Args:
        s: from `bank.settings`, with as many slots as there are images and no cached views.

    Raises:
        ValueError: where there are fewer images than a batch.
    """
    if len(images) < s.student_batch:
        raise ValueError(
            f"{len(images)} given images are fewer than student.batch = {s.student_batch}; lower the batch size."
        )
    pool = ssdkd.make(s, models, task, axis)

    def init(key: Key) -> bank.State:
        empty = pool.init(key)
        rows = empty.buffer.shards.rows
        filled = np.pad(images, ((0, rows.images.shape[0] - len(images)), (0, 0), (0, 0), (0, 0)))
        index = empty.buffer.index
        buffer = empty.buffer.replace(
            index=index.replace(label=jnp.zeros_like(index.label)),
            shards=empty.buffer.shards.replace(rows=rows.replace(images=jnp.asarray(filled, jnp.uint8))),
        )
        return bank.State(pool=empty.replace(buffer=buffer), own=())

    method = bank.make(pool, lambda key: (), nothing())
    return method._replace(init=init, preview=make_preview(models, task, axis), images_made=lambda rounds, steps: 0)


def nothing() -> Synthesis:
    """A synthesis that makes nothing."""

    def finish(
        work: Array, state: bank.State, teacher_variables: Variables, student: ModelState, key: Key
    ) -> tuple[bank.State, Metrics]:
        return state.replace(pool=state.pool.replace(round=state.pool.round + 1)), {}

    return Synthesis(
        begin=lambda state, key: state.pool.round, step=lambda work, *_: (work, {}), finish=finish, steps=1
    )


def make_preview(models: inversion.Models, task: Task, axis: str | None) -> Callable[..., Preview]:
    """(state, teacher variables, key) -> about `PREVIEWED` of the images, over all devices."""

    def preview(state: bank.State, teacher_variables: Variables, key: Key) -> Preview:
        buffer = state.pool.buffer
        count = -(-PREVIEWED // parallel.device_count(axis)) * parallel.device_count(axis)
        slots = jax.random.randint(key, (count,), 0, buffer.index.label.shape[0])
        images = replay_buffer.take(buffer, slots, axis).images
        probabilities = task.class_probabilities(models.teacher.apply(teacher_variables, augment.to_float(images)))
        label = probabilities.argmax(-1).astype(jnp.int32)
        return Preview(images=images, label=label, confidence=probabilities.max(-1))

    return preview
