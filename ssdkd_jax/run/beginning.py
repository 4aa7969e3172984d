"""The student's start: after the first rounds, from its teacher and what is there of images."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ssdkd_jax import build, closed_form
from ssdkd_jax.engine import keys, loop, parallel
from ssdkd_jax.types import Preview, TrainState, Variables


def starter(
    job: build.Job, teacher: Variables, preview: Callable[[TrainState], Preview], clock: loop.Clock
) -> loop.Begin:
    """(rounds done, state on the devices) -> the state, with its student solved for where it is time.

    That is once: after the rounds that only make images, or after the first. It follows from the state alone, so that a
    run that goes on starts its student alike.

    Args:
        teacher: on the devices.
        clock: as of `loop.run`.
    """
    when = max(1, job.plan.warmup)

    def begin(rounds: int, state: TrainState) -> TrainState:
        if job.start is None or rounds != when:
            return state
        with clock("start"):
            here = parallel.to_host((teacher, state.student.variables, state.key))
            of_teacher, variables, key = jax.tree.map(jnp.asarray, here)
            images = job.start.images(keys.of_stage(key, keys.Stage.START), preview(state).images)
            networks = (job.teacher, of_teacher, job.network, variables)
            solved = closed_form.start(*networks, images, job.task.distillation_loss)
            return state.replace(student=state.student.replace(variables=parallel.to_devices(solved)))

    return begin
