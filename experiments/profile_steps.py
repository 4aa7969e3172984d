"""Time the jitted steps of a config, and print one JSON object.

    python experiments/profile_steps.py --config=configs/fashion_mnist.py

Networks have random weights, and their images are one round old: neither changes a step's time.

    cached_over_in_loop  distillation step with cached views / with the teacher in the loop
    host_overhead        time of whole rounds outside the compiled programs / time inside; each call is
                         waited for, so that none of the host's work hides behind a running program
    recompilations       programs compiled after the first round
    compile_cold_s       compiling a round's programs with an empty compilation cache
    compile_warm_s       the same again, from the cache just written
    *_step_s             median seconds of one step
"""

from __future__ import annotations

from ssdkd_jax.engine import environment

environment.prepare()

import json
import tempfile
import time

import jax
import jax.numpy as jnp
from absl import flags
from jax.experimental.compilation_cache import compilation_cache

from ssdkd_jax import build, data
from ssdkd_jax.cli import launch
from ssdkd_jax.engine import loop, parallel
from ssdkd_jax.report import machine, progress
from ssdkd_jax.run import evaluation, profiling
from ssdkd_jax.types import TrainState

TIMES = flags.DEFINE_integer("times", 20, "Calls that each median is taken over.", lower_bound=3)
COMPILED = "/jax/core/compile/backend_compile_duration"


def main() -> None:
    """Measure, and print."""
    config = launch.config()
    inputs = evaluation.inputs(config, data.load(config.data.name, config.data.folder))
    network = build.network(config.teacher.model, inputs, compute=config.compute)
    variables = network.init(jax.random.key(config.seed))
    teacher = parallel.to_devices(variables)
    job = build.job(config, inputs, network, variables)
    state = profiling.first_state(job, config.seed)

    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        compilation_cache.reset_cache()  # the folder is otherwise fixed by the first compilation
        _, cold = profiling.compiled(job, state, teacher)
        jax.clear_caches()
        programs, warm = profiling.compiled(job, state, teacher)

    in_loop_step = profiling.in_loop_seconds(config, network, variables, inputs, TIMES.value)
    steps, state = step_seconds(programs, profiling.synthesized(programs, state, teacher), teacher)
    overhead, recompilations = whole_rounds(job, programs, state, teacher)
    print(
        json.dumps(
            {
                "cached_over_in_loop": steps["distill"] / in_loop_step,
                "host_overhead": overhead,
                "recompilations": recompilations,
                "compile_cold_s": cold,
                "compile_warm_s": warm,
                "inversion_step_s": steps["invert"],
                "store_s": steps["finish"],
                "distillation_step_s": steps["distill"],
                "in_loop_distillation_step_s": in_loop_step,
                "teacher": config.teacher.model,
                "student": config.student.model,
                "teacher_views": config.views.count,
                "devices": [str(device) for device in jax.local_devices()],
                "versions": machine.versions(),
            }
        )
    )


def step_seconds(programs: loop.Programs, state: TrainState, teacher: dict) -> tuple[dict[str, float], TrainState]:
    """Median seconds of one call of each program."""
    times = TIMES.value
    begin, _ = profiling.seconds_per_call(lambda _: programs.begin(state), None, times)
    one = programs.invert._replace(times=1)
    student = state.student.variables
    invert, work = profiling.seconds_per_call(lambda w: one(w, teacher, student)[0], programs.begin(state), times)
    finish, state = profiling.seconds_per_call(lambda s: programs.finish(s, work, teacher)[0], state, times)
    distill, state = profiling.distillation_seconds(programs, state, teacher, times)
    return {"begin": begin, "invert": invert, "finish": finish, "distill": distill}, state


def whole_rounds(job: build.Job, programs: loop.Programs, state: TrainState, teacher: dict) -> tuple[float, int]:
    """Host overhead of rounds as `loop.run` runs them, and the programs compiled in all but the first."""
    compiled, marks, clock = [], [], progress.Stopwatch()
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: compiled.append(event) if event == COMPILED else None
    )
    plan = job.plan._replace(rounds=4, warmup=0)
    student = state.student.replace(step=jnp.zeros_like(state.student.step))
    state = state.replace(round=jnp.zeros_like(state.round), student=student)

    with progress.progress("rounds", plan.rounds) as advance:

        def on_round(rounds: int, state: TrainState, metrics: dict[str, float]) -> None:
            advance(metrics)
            marks.append((time.perf_counter(), clock.seconds["programs"], len(compiled)))

        loop.run(profiling.watched(programs, clock), plan, state, teacher, progress.Stopwatch(), on_round)
    whole, inside, recompilations = (last - first for first, last in zip(marks[0], marks[-1], strict=True))
    return (whole - inside) / inside, recompilations


if __name__ == "__main__":
    launch.launch(main, required=("config",))
