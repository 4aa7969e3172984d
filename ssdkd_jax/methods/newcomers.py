"""What the buffer keeps of new images: what is known of each, and the teacher's answers to its fixed views."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ssdkd_jax import augment, teacher
from ssdkd_jax.engine import parallel
from ssdkd_jax.methods import Problem
from ssdkd_jax.replay_buffer import Index, Rows
from ssdkd_jax.types import Array, Key, ModelState, Variables


class Views(NamedTuple):
    """What the student sees of an image.

    Attributes:
        view: augmentation.
        cached: V, views per slot whose answers the buffer keeps; 0 runs the teacher in the loop.
        mixup: student step -> share of the images that are blended with others; None for none.
    """

    view: augment.View
    cached: int
    mixup: optax.Schedule | None = None


def make_describe(views: Views, problem: Problem) -> Callable[..., tuple[Index, Rows]]:
    """(images, round, teacher variables, student, key) -> newcomers as they will stand in the buffer.

    That is their index over all devices, and the rows of this one. Their gap is of the student in training mode, as
    the distillation step measures it: by its running statistics, which trail, gaps would be of another size.
    """
    task, axis = problem.task, problem.axis

    def describe(
        images: Array, round_index: Array, teacher_variables: Variables, student: ModelState, key: Key
    ) -> tuple[Index, Rows]:
        stored = augment.to_uint8(images)
        x = augment.to_float(stored)
        key_seeds, key_layers = jax.random.split(key)
        seeds = jax.random.bits(key_seeds, (images.shape[0] * parallel.device_count(axis),))
        seeds = parallel.local_rows(seeds, axis)
        answers = view_answers(views, problem, teacher_variables, seeds, stored)
        f_t = answers[0][:, 0]
        f_s, _ = problem.student.train(student.variables, x, parallel.local_key(key_layers, axis))
        probabilities = task.class_probabilities(f_t)
        local = (probabilities.argmax(-1), probabilities.max(-1), task.gap(f_t, f_s))
        label, confidence, gap = (parallel.all_rows(value, axis) for value in local)
        index = Index(
            label=label.astype(jnp.int32),
            confidence=confidence,
            gap=gap,
            filled=jnp.full_like(label, round_index),
            drawn=jnp.full_like(label, student.step),
        )
        return index, rows(stored, seeds, answers, views.cached)

    return describe


def view_answers(
    views: Views, problem: Problem, teacher_variables: Variables, seeds: Array, images: Array
) -> tuple[Array, Any]:
    """The teacher's logits [B, V, C] and hints [B, V, ...] on the fixed views of uint8 images; at least one view."""
    answer = partial(problem.hint.observe, problem.teacher.apply, teacher_variables)
    return teacher.view_answers(answer, views.view, seeds, augment.to_float(images), max(views.cached, 1))


def rows(images: Array, seeds: Array, answers: tuple[Array, Any], cached: int) -> Rows:
    """What the buffer keeps of newcomers: hints in half of their bytes."""
    logits, hints = jax.tree.map(lambda x: x[:, :cached], answers)
    return Rows(images=images, seeds=seeds, logits=logits, hints=jax.tree.map(halved, hints))


def halved(hint: Array) -> Array:
    """Attention [B, V, P], at most 1, as float16; maps [B, V, h, w, d] of any size with the range of float32."""
    return hint.astype(jnp.float16 if hint.ndim == 3 else jnp.bfloat16)
