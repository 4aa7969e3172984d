"""Our side of compare_pytorch.py: a distillation as `ssdkd_jax.distill` runs it, by the clock of `meter`.

    python experiments/ours.py FOLDER   # of a job; compare_pytorch.py starts it

Inside the clock is all but the real test images: start, imports, the restart of `environment.prepare`, compilation, the
images, the student, its statistics before each evaluation. The indicators, which only inform, are left out.
"""

from __future__ import annotations

from ssdkd_jax.engine import environment

environment.prepare()

import contextlib
import sys
from pathlib import Path

import jax
import meter as meters
import numpy as np
import stored

from ssdkd_jax import build
from ssdkd_jax.api import judges
from ssdkd_jax.engine import preemption
from ssdkd_jax.interop import saved
from ssdkd_jax.report import machine, progress
from ssdkd_jax.run import distillation, evaluation, indicators, pipeline, readiness
from ssdkd_jax.run import teacher as teachers
from ssdkd_jax.types import Variables


def run(folder: Path) -> None:
    """Distil until the plan ends or the meter says that it is over."""
    job, meter = meters.opened(folder)
    original = stored.get_config(str(folder / "config.json"))
    config = build.for_devices(original)
    teacher = saved.load(config.teacher.checkpoint, teachers.named(config), config.compute)
    readiness.conform(config, teacher.inputs)
    clock = progress.Stopwatch()
    prepared = pipeline.prepare(config, teacher, evaluation.without_data(), clock)
    with meter.outside():
        test = np.load(job["test_file"])
        judge = judges.by_arrays(test["images"], test["labels"], config, teacher)
        scores = judge.scores(prepared.job.network)

    def scored(student: Variables) -> dict[str, float]:
        student = jax.block_until_ready(student)
        with meter.outside():
            return scores(student)

    def on_round(rounds: int, metrics: dict[str, float]) -> None:
        if judge.score in metrics:
            steps = (rounds - config.schedule.warmup) * config.schedule.distill_steps
            meter.evaluated(metrics[judge.score], steps)

    judged = prepared.judges._replace(scores=scored, fresh=indicators.none)
    watchers = distillation.Watchers(stop=meter.over, on_round=on_round)
    with contextlib.suppress(preemption.Preempted):  # the meter's stop
        pipeline.start(prepared._replace(judges=judged), None, clock, watchers)
    settings = {**original.to_dict(), "seconds_by_stage": clock.seconds}
    meters.close(folder, job, meter, settings, [name for name in machine.versions() if name != "python"])


if __name__ == "__main__":
    run(Path(sys.argv[1]))
