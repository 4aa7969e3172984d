"""Time the steps of several seeds of one config under vmap, and print one JSON object: milliseconds of a step of all.

    python experiments/vmapped_seeds.py --config=configs/digits.py --counts=1,4,8

Networks have random weights, and their images are one round old: neither changes a step's time.
"""

from __future__ import annotations

from ssdkd_jax.engine import environment

environment.prepare()

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from ssdkd_jax import build, data
from ssdkd_jax.cli import launch
from ssdkd_jax.engine import dispatch, guard, loop, parallel
from ssdkd_jax.run import evaluation, profiling
from ssdkd_jax.types import TrainState, Variables

COUNTS = flags.DEFINE_list("counts", ["1", "4", "8"], "Numbers of seeds.")
TIMES = flags.DEFINE_integer("times", 5, "Calls that each median is taken over.", lower_bound=3)


def main() -> None:
    """Measure, and print."""
    config = launch.config()
    inputs = evaluation.inputs(config, data.load(config.data.name, config.data.folder))
    network = build.network(config.teacher.model, inputs, compute=config.compute)
    variables = network.init(jax.random.key(config.seed))
    job, teacher = build.job(config, inputs, network, variables), parallel.to_devices(variables)
    programs, _ = profiling.compiled(job, profiling.first_state(job, 0), teacher)
    counts = [int(count) for count in COUNTS.value]
    firsts = [profiling.first_state(job, seed) for seed in range(max(counts))]
    states = [loop.synthesize(programs, first, teacher)[0] for first in firsts]
    print(json.dumps({count: measured(job, states[:count], teacher) for count in counts}))


def measured(job: build.Job, states: list[TrainState], teacher: Variables) -> dict[str, float]:
    """Milliseconds of a step that is one of each state."""
    stacked = parallel.pmap(lambda *trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees))(*states)
    student = parallel.copied(stacked.student.variables)
    work = parallel.pmap(jax.vmap(loop.begin(job.method)))(stacked)
    invert = guard.skipping(job.method.synthesis.step, loop.INVERSION, parallel.AXIS)
    distill = loop.guarded_distill(job.method, job.step)
    return {
        "inversion": milliseconds(jax.vmap(invert, (0, None, 0)), job.method.synthesis.steps, work, teacher, student),
        "distillation": milliseconds(jax.vmap(distill, (0, None)), job.plan.distill_steps, stacked, teacher),
    }


def milliseconds(step: Callable, times: int, carry: Any, *fixed: Any) -> float:
    """Of a step, from dispatches of as many as a run has."""
    repeat = dispatch.repeat(step, times)
    taken, _ = profiling.seconds_per_call(lambda carry: repeat(carry, *fixed)[0], carry, TIMES.value)
    return 1e3 * taken / times


if __name__ == "__main__":
    launch.launch(main, required=("config",))
