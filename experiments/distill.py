"""Distil a teacher into a student without its data, by SSD-KD or another method (configs/digits.py:dafl).

    python experiments/distill.py --config=configs/digits.py --workdir=runs/digits

Trains the teacher first where the config names no checkpoint. Started again after a kill, it goes
on from the newest checkpoint and ends with the same bits; so it does after SIGTERM, at which it
saves and exits with code 75. Real images are used to train that
teacher, to measure accuracy, and for the yardstick at the end; the student never sees one.
"""

from __future__ import annotations

from ssdkd_jax.engine import environment

environment.prepare()

from ssdkd_jax.engine import preemption

preemption.install()

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import common
import exhibits
import jax
import yardstick
from absl import flags
from ml_collections import ConfigDict

from ssdkd_jax import build, models, presets
from ssdkd_jax.engine import calibration, checkpoint, guard, hosts, loop, parallel
from ssdkd_jax.interop import saved
from ssdkd_jax.report import machine, progress
from ssdkd_jax.run import profiling
from ssdkd_jax.types import Preview

CLOCK = flags.DEFINE_enum(
    "clock",
    "wall",
    list(progress.CLOCKS),
    "What summary.json's seconds are; 'cpu' where others use the machine.",
)


LEVELS = (0.85, 0.88, 0.90, 0.91, 0.92, 0.95, 0.98)
NOT_SCORES = ("round", "seconds", "synthesis", "distillation")  # of a point of the curve


def main() -> None:
    """Claim the folder, and run."""
    workdir = Path(common.WORKDIR.value)
    with common.claimed(workdir):
        run(build.for_devices(common.CONFIG.value), workdir)


def run(config: ConfigDict, workdir: Path) -> None:
    """Teacher, distillation, yardstick, report."""
    clock = progress.Stopwatch({"start": environment.seconds_since_start()}, CLOCK.value)
    with clock("data"):
        dataset, inputs = common.load_data(config)
    network, variables = common.obtain_teacher(config, workdir, dataset, inputs, clock)
    with clock("evaluation"):
        teacher = parallel.to_devices(variables)
        teacher_scores = common.evaluator(config, network, dataset)(teacher)
    with clock("setup"):
        images = yardstick.given_images(config, dataset)
        job = build.job(config, inputs, network, variables, images=images)
        first = parallel.quick_jit(partial(loop.init, job.method, job.network, job.tx))(config.seed)
    show = exhibits.exhibition(job, teacher)
    calibrated = calibration.make(job.method, job.network, build.student_steps(config), config.student.update_bn)
    evaluate = common.evaluator(config, job.network, dataset)
    state, curve, skipped = distill(
        config, workdir, job, first, teacher, lambda state: evaluate(calibrated(state, teacher)), show, clock
    )
    parallel.check_replicated(state)
    score, student_scores = job.task.score, {k: v for k, v in curve[-1].items() if k not in NOT_SCORES}
    folder = workdir / "student"
    student = parallel.to_host(calibrated(state, teacher))
    saved.save(folder, student, common.note(config.student.model, inputs, **{score: student_scores[score]}))

    summary = {
        **scores(job.task.score, teacher_scores, student_scores, curve),
        "synthetic_images": job.method.images_made(config.schedule.rounds, build.student_steps(config)),
        "buffer_size": config.buffer.size,
        "skipped_steps": skipped,
        "distillation_steps": build.student_steps(config),
        "teacher_parameters": models.parameter_count(variables),
        "student_parameters": models.parameter_count(student),
    }
    if config.yardstick_steps:
        with clock("yardstick"):
            summary[f"real_subset_{score}"] = yardstick.train(config, dataset, inputs)
    if config.measure_unit:
        unhinted = presets.apply(config.copy_and_resolve_references(), "ssdkd_logits")
        in_loop = profiling.in_loop(unhinted, inputs, network, variables)
        start = profiling.filled_state(in_loop, config.seed)
        summary["unit_seconds"] = profiling.distill_seconds(in_loop, start, teacher, times=20)
    with clock("report"):
        rows = show(state)
        summary["class_counts"] = exhibits.class_counts(rows, job.task.classes)
        exhibits.write_report(workdir, config, rows, job, summary, curve)
        if dataset.test_labels.ndim > 1:
            networks = (network, variables), (job.network, student)
            exhibits.write_masks(workdir, config, rows.images, summary, dataset, networks)
    summary |= circumstances(clock) | {"curve": curve}
    if not hosts.is_first():
        return
    checkpoint.write_json(workdir / "summary.json", summary)
    shown = {f"{name}_{score}": summary[f"{name}_{score}"] for name in ("teacher", "student", "real_subset")}
    said = ", ".join(f"{name} {value:.4f}" for name, value in shown.items() if value is not None)
    print(f"{said}; {clock.total:.0f} s; see {workdir}/summary.json")


def scores(
    score: str, teacher_scores: dict[str, float], student_scores: dict[str, float], curve: list[dict]
) -> dict[str, Any]:
    """The part of the summary that says how good the networks are, by the task's `score` above all."""
    return {
        "score": score,
        f"teacher_{score}": teacher_scores[score],
        f"student_{score}": student_scores[score],
        f"real_subset_{score}": None,
        "teacher_scores": teacher_scores,
        "student_scores": student_scores,
        f"time_to_{score}": {
            f"{level:.2f}": next((p["seconds"] for p in curve if p[score] >= level), None) for level in LEVELS
        },
    }


def circumstances(clock: progress.Stopwatch) -> dict[str, Any]:
    """The part of the summary that says what it took, on what, and with which settings."""
    return {
        "seconds": {**clock.seconds, "total": clock.total, "process": environment.seconds_since_start()},
        "peak_memory_bytes": machine.peak_memory_bytes(),
        "peak_device_memory_bytes": machine.peak_device_memory_bytes(),
        "devices": [str(device) for device in jax.devices()],
        "versions": machine.versions(),
        "clock": CLOCK.value,
        "seed": common.CONFIG.value.seed,
        "config": common.CONFIG.value.to_dict(),
    }


def distill(
    config: ConfigDict,
    workdir: Path,
    job: build.Job,
    first: loop.TrainState,
    teacher: dict,
    judge: Callable[[loop.TrainState], dict[str, float]],
    show: Callable[[loop.TrainState], Preview],
    clock: progress.Stopwatch,
) -> tuple[loop.TrainState, list[dict], dict[str, int]]:
    """Run or resume the distillation; the curve holds seconds and held-out metrics; then skipped steps by stage."""
    folder = workdir / "checkpoints"
    _, state, note = checkpoint.restore(folder, first) or (0, first, {"seconds": {}, "curve": [], "skipped": {}})
    clock.add(note["seconds"])
    curve, skipped, done = note["curve"], note["skipped"], int(state.round)
    state = parallel.to_devices(state)
    if loop.position(state).finished(job.plan):
        return state, curve, skipped
    with clock("compilation"):
        programs = loop.compile_round(job.method, job.step, job.plan, state, teacher)
    save = common.Saver(folder, config.schedule.checkpoint_seconds)
    board = progress.Board(workdir / "tensorboard" if hosts.is_first() else None)
    record = {"seconds": clock.seconds, "curve": curve, "skipped": skipped}

    with progress.progress("distillation", job.plan.rounds, done, hosts.is_first()) as advance:

        def on_round(number: int, state: loop.TrainState, metrics: dict[str, float]) -> None:
            distilled = max(0, number - job.plan.warmup)
            if number == job.plan.rounds or (distilled and distilled % config.schedule.evaluate_every == 0):
                with clock("evaluation"):
                    held_out = judge(state)
                spent = {stage: clock.seconds.get(stage, 0.0) for stage in ("synthesis", "distillation")}
                curve.append({"round": number, "seconds": clock.total, **spent, **held_out})
                board.scalars({f"test/{name}": value for name, value in held_out.items()}, number)
                board.image("synthetic", exhibits.grid(show(state), job), number)
            shown = {job.task.score: curve[-1][job.task.score]} if curve else {}
            advance(metrics | shown)
            board.scalars(metrics, number)
            for name, times in metrics.items():
                if name.endswith(guard.SKIPPED):
                    skipped[name] = skipped.get(name, 0) + int(times)
            if number == job.plan.rounds:
                save.now(loop.position(state).checkpoint, state, record)
            save.now_and_then(loop.position(state).checkpoint, state, record)

        state = loop.run(programs, job.plan, state, teacher, clock, on_round, common.stop)
    board.close()
    if not loop.position(state).finished(job.plan):
        save.now(loop.position(state).checkpoint, state, record)
        made = int(parallel.unreplicate(state.round))
        raise preemption.Preempted(f"Stopped by SIGTERM after synthesis {made}, and saved; the same command goes on.")
    return state, curve, skipped


if __name__ == "__main__":
    common.launch(main)
