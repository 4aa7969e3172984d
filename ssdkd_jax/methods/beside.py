"""Procedural images beside those of a method, in every batch of the student; drawn anew each time, and never kept."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ssdkd_jax import settings
from ssdkd_jax.engine import parallel
from ssdkd_jax.methods import Problem, unstored
from ssdkd_jax.settings import setting
from ssdkd_jax.sources import procedural
from ssdkd_jax.types import Array, Batch, Key, Method, Variables


@settings.section("student")
class Settings:
    """What the student sees beside the images of the method."""

    procedural: int = setting(0, "procedural images beside each batch, over all devices, drawn anew", least=0)


def with_procedural(method: Method, count: int, problem: Problem) -> Method:
    """The method, its batches longer by `count` images whose importance weight is 1.

    The method itself learns of its own images alone.
    """
    if not count:
        return method
    axis, shape = problem.axis, problem.inputs.image_shape

    def sample(state: Any, teacher_variables: Variables, student_step: Array, key: Key) -> Batch:
        key, key_drawn = jax.random.split(key)
        batch = method.sample(state, teacher_variables, student_step, key)
        x = parallel.local_rows(procedural.draw(key_drawn, count, shape), axis)
        other = unstored.batch(problem, teacher_variables, x)
        return batch.replace(**{name: jax.tree.map(joined, batch[name], other[name]) for name in unstored.SHOWN})

    def feedback(state: Any, batch: Batch, gaps: Array, student_step: Array) -> Any:
        return method.feedback(state, batch, gaps[: len(gaps) - count // parallel.device_count(axis)], student_step)

    return method._replace(sample=sample, feedback=feedback)


def joined(first: Array, second: Array) -> Array:
    """The rows of both, in the type of the first."""
    return jnp.concatenate([first, second.astype(first.dtype)])
