"""Images that no buffer holds: as a batch for the student, and as a preview."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ssdkd_jax import augment
from ssdkd_jax.engine import parallel
from ssdkd_jax.methods import Problem
from ssdkd_jax.types import Array, Batch, Preview, Task, Variables

PREVIEWED = 1000
SHOWN = ("images", "teacher_logits", "weights", "hints")  # of a batch, to the student


def batch(problem: Problem, teacher_variables: Variables, images: Array) -> Batch:
    """Images [B, H, W, D], all of one weight, with what the teacher answers to them."""
    f_t, hints = problem.hint.observe(problem.teacher.apply, teacher_variables, images)
    return Batch(
        images=images,
        teacher_logits=f_t,
        weights=jnp.ones(len(images), jnp.float32),
        slots=jnp.zeros(len(images) * parallel.device_count(problem.axis), jnp.int32),
        hints=hints,
    )


def rows(whole: Batch, places: Array, axis: str | None) -> Batch:
    """The rows of a batch at int [B] places over all devices."""
    taken = {name: jax.tree.map(lambda x: parallel.take_rows(x, places, axis), whole[name]) for name in SHOWN}
    return whole.replace(slots=whole.slots[: len(places)], **taken)


def preview(task: Task, images: Array, teacher_logits: Array) -> Preview:
    """Images float [M, H, W, D] in [0, 1], with what the teacher sees in them."""
    p = task.class_probabilities(teacher_logits)
    return Preview(images=augment.to_uint8(images), label=p.argmax(-1).astype(jnp.int32), confidence=p.max(-1))


def previewed(axis: str | None) -> int:
    """`PREVIEWED`, or the next multiple of the devices."""
    return -(-PREVIEWED // parallel.device_count(axis)) * parallel.device_count(axis)
