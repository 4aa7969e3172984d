"""Seconds of the jitted steps of a method, measured after one synthesised round."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ssdkd_jax import build, presets
from ssdkd_jax.engine import dispatch, loop, parallel
from ssdkd_jax.types import Inputs, Network, TrainState, Variables

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def first_state(job: build.Job, seed: int) -> TrainState:
    """The state before the first round, on the devices."""
    return parallel.to_devices(loop.first(job.method, job.network, job.tx, seed))


def compiled(job: build.Job, state: TrainState, teacher: Variables) -> tuple[loop.Programs, float]:
    """The programs of a round, and the seconds that compiling them took."""
    start = time.perf_counter()
    programs = loop.Programs(*dispatch.wait(loop.compile_round(job.method, job.step, job.plan, state, teacher)))
    return programs, time.perf_counter() - start


def synthesized(programs: loop.Programs, state: TrainState, teacher: Variables) -> TrainState:
    """The state after a synthesis of one step, with images that a student can be taught from."""
    short = programs._replace(invert=programs.invert._replace(times=1))
    state, _ = loop.synthesize(short, state, teacher)
    return state


def seconds_per_call(call: Callable[[Any], Any], carry: Any, times: int) -> tuple[float, Any]:
    """Median seconds of `carry = call(carry)`, each call waited for, after one that is not counted."""
    taken = []
    for _ in range(times + 1):
        start = time.perf_counter()
        carry = jax.block_until_ready(call(carry))
        taken.append(time.perf_counter() - start)
    return float(np.median(taken[1:])), carry


def watched(programs: loop.Programs, clock: Callable[[str], AbstractContextManager]) -> loop.Programs:
    """The same programs, each call waited for and its seconds put on the clock as 'programs'."""

    def watch(program: Callable) -> Callable:
        def call(*arguments: Any) -> Any:
            with clock("programs"):
                return jax.block_until_ready(program(*arguments))

        return call

    return loop.Programs(
        *(p._replace(dispatch=watch(p.dispatch)) if isinstance(p, dispatch.Repeat) else watch(p) for p in programs)
    )


def distillation_seconds(
    programs: loop.Programs, state: TrainState, teacher: Variables, times: int
) -> tuple[float, TrainState]:
    """Median seconds of one distillation step, and the state after them."""
    one = programs.distill._replace(times=1)
    return seconds_per_call(lambda state: one(state, teacher)[0], state, times)


def in_loop_seconds(
    config: ConfigDict, teacher: Network, variables: Variables, inputs: Inputs, times: int = 20
) -> float:
    """Median seconds of one distillation step with the teacher run in it."""
    config = config.copy_and_resolve_references()
    config.views.count = 0
    job, on_devices = build.job(config, inputs, teacher, variables), parallel.to_devices(variables)
    state = first_state(job, config.seed)
    programs, _ = compiled(job, state, on_devices)
    seconds, _ = distillation_seconds(programs, synthesized(programs, state, on_devices), on_devices, times)
    return seconds


def unit_seconds(config: ConfigDict, teacher: Network, variables: Variables, inputs: Inputs) -> float:
    """Seconds of the unit of time of this pair: a distillation step from logits, with the teacher run in it."""
    unhinted = presets.apply(config.copy_and_resolve_references(), "ssdkd_logits")
    return in_loop_seconds(unhinted, teacher, variables, inputs)
