"""Seconds of the jitted steps, measured on a buffer of noise."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ssdkd_jax import build
from ssdkd_jax.engine import dispatch, loop, parallel
from ssdkd_jax.methods import ssdkd
from ssdkd_jax.types import Network, TrainState, Variables


def filled_state(job: build.Job, seed: int) -> TrainState:
    """A first state, on the devices, whose buffer is full of noise images of all classes.

    Raises:
        ValueError: for another method than SSD-KD.
    """
    state = loop.init(job.method, job.network, job.tx, seed)
    if not isinstance(state.method, ssdkd.State):
        raise ValueError("Only SSD-KD's steps are profiled; set method.name = 'ssdkd' and measure_unit = False.")
    buffer, rng = state.method.buffer, np.random.default_rng(seed)
    rows = buffer.shards.rows
    noise = jnp.asarray(rng.integers(0, 256, rows.images.shape, np.uint8))
    label = jnp.arange(buffer.index.label.shape[0], dtype=jnp.int32) % job.task.classes
    gap = jnp.asarray(rng.random(label.shape, np.float32))
    buffer = buffer.replace(
        index=buffer.index.replace(label=label, gap=gap),
        shards=buffer.shards.replace(rows=rows.replace(images=noise)),
    )
    return parallel.to_devices(state.replace(method=state.method.replace(buffer=buffer)))


def compiled(job: build.Job, state: TrainState, teacher: Variables) -> tuple[loop.Programs, float]:
    """The programs of a round, and the seconds that compiling them took."""
    start = time.perf_counter()
    programs = loop.compile_round(job.method, job.step, job.plan, state, teacher)
    return programs, time.perf_counter() - start


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


def in_loop(config: ConfigDict, inputs: build.Inputs, teacher: Network, variables: Variables) -> build.Job:
    """The same job with the teacher run in every distillation step."""
    config = config.copy_and_resolve_references()
    config.views.count = 0
    return build.job(config, inputs, teacher, variables)


def distill_seconds(job: build.Job, state: TrainState, teacher: Variables, times: int) -> float:
    """Median seconds of one dispatch of the distillation step, per step."""
    program = dispatch.repeat(loop.guarded_distill(job.method, job.step), 1)
    (compiled_step,) = dispatch.compile_together([(program, (state, teacher))])
    seconds, _ = seconds_per_call(lambda s: compiled_step(s, teacher)[0], state, times)
    return seconds
