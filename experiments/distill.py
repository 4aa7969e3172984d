"""Distil a teacher into a student without its data (SSD-KD).

    python experiments/distill.py --config=configs/digits.py --workdir=runs/digits

Trains the teacher first where the config names no checkpoint. Started again after a kill, it goes
on from the newest checkpoint and ends with the same bits; so it does after SIGTERM, at which it
saves and exits with code 75. Real images are used to train that
teacher, to measure accuracy, and for the yardstick at the end; the student never sees one.
"""

from __future__ import annotations

from ssdkd_jax import runtime

runtime.prepare()

from ssdkd_jax import preemption

preemption.install()

from functools import partial
from pathlib import Path

import common
import jax
import numpy as np
from ml_collections import ConfigDict

from ssdkd_jax import (
    build,
    checkpoint,
    data,
    guard,
    hosts,
    models,
    optimization,
    parallel,
    profiling,
    report,
    supervised,
    train,
)
from ssdkd_jax.models import saved
from ssdkd_jax.replay_buffer import EMPTY


def main() -> None:
    """Claim the folder, and run."""
    workdir = Path(common.WORKDIR.value)
    with common.claimed(workdir):
        run(build.for_devices(common.CONFIG.value), workdir)


def run(config: ConfigDict, workdir: Path) -> None:
    """Teacher, distillation, yardstick, report."""
    clock = report.Stopwatch({"start": runtime.seconds_since_start()})
    with clock("data"):
        dataset, inputs = common.load_data(config)
    network, variables = common.obtain_teacher(config, workdir, dataset, inputs, clock)
    with clock("evaluation"):
        teacher = parallel.to_devices(variables)
        teacher_metrics = common.evaluator(config, network, dataset)(teacher)
    with clock("setup"):
        job = build.job(config, inputs, network, variables)
        first = parallel.once(partial(train.init, job.method, job.network, job.tx))(config.seed)
    state, curve, skipped = distill(config, workdir, job, first, teacher, dataset, clock)
    parallel.check_replicated(state)
    student_accuracy = curve[-1]["accuracy"]
    folder = workdir / "student"
    student = parallel.to_host(state.student.variables)
    saved.save(folder, student, common.note(config.student.model, inputs, accuracy=student_accuracy))

    summary = {
        "teacher_accuracy": teacher_metrics["accuracy"],
        "student_accuracy": student_accuracy,
        "real_subset_accuracy": None,
        "time_to_accuracy": {
            f"{level:.2f}": next((p["seconds"] for p in curve if p["accuracy"] >= level), None)
            for level in (0.85, 0.88, 0.90, 0.91, 0.92, 0.95, 0.98)
        },
        "synthetic_images": config.synthesis.batch * config.schedule.rounds,
        "buffer_size": config.buffer.size,
        "skipped_steps": skipped,
        "distillation_steps": build.student_steps(config),
        "teacher_parameters": models.parameter_count(variables),
        "student_parameters": models.parameter_count(student),
    }
    if config.yardstick_steps:
        with clock("yardstick"):
            summary["real_subset_accuracy"] = train_yardstick(config, dataset, inputs)
    if config.measure_unit:
        in_loop = profiling.in_loop(config, inputs, network, variables)
        start = profiling.filled_state(in_loop, config.seed)
        summary["unit_seconds"] = profiling.distill_seconds(in_loop, start, teacher, times=20)
    with clock("report"):
        write_report(workdir, config, state, job, summary, curve)
    summary |= {
        "seconds": {**clock.seconds, "total": clock.total, "process": runtime.seconds_since_start()},
        "peak_memory_bytes": report.peak_memory_bytes(),
        "devices": [str(device) for device in jax.devices()],
        "versions": report.versions(),
        "seed": config.seed,
        "config": common.CONFIG.value.to_dict(),
        "curve": curve,
    }
    if not hosts.is_first():
        return
    checkpoint.write_json(workdir / "summary.json", summary)
    shown = (f"{name} {summary[name]:.4f}" for name in ACCURACIES if summary[name] is not None)
    print(f"{', '.join(shown)}; {clock.total:.0f} s; see {workdir}/summary.json")


ACCURACIES = ("teacher_accuracy", "student_accuracy", "real_subset_accuracy")


def distill(
    config: ConfigDict,
    workdir: Path,
    job: build.Job,
    first: train.TrainState,
    teacher: dict,
    dataset: data.Dataset,
    clock: report.Stopwatch,
) -> tuple[train.TrainState, list[dict], dict[str, int]]:
    """Run or resume the distillation; the curve holds seconds and held-out metrics; then skipped steps by stage."""
    folder = workdir / "checkpoints"
    _, state, note = checkpoint.restore(folder, first) or (0, first, {"seconds": {}, "curve": [], "skipped": {}})
    for stage, seconds in note["seconds"].items():
        clock.seconds[stage] = clock.seconds.get(stage, 0.0) + seconds
    curve, skipped, done = note["curve"], note["skipped"], int(state.round)
    state = parallel.to_devices(state)
    if train.finished(job.plan, state):
        return state, curve, skipped
    with clock("compilation"):
        programs = train.compile_round(job.method, job.step, job.plan, state, teacher)
    evaluate = common.evaluator(config, job.network, dataset)
    save = common.Saver(folder, config.schedule.checkpoint_seconds)
    board = report.Board(workdir / "tensorboard" if hosts.is_first() else None)
    progress = {"seconds": clock.seconds, "curve": curve, "skipped": skipped}

    with report.progress("distillation", job.plan.rounds, done, hosts.is_first()) as advance:

        def on_round(number: int, state: train.TrainState, metrics: dict[str, float]) -> None:
            distilled = max(0, number - job.plan.warmup)
            if number == job.plan.rounds or (distilled and distilled % config.schedule.evaluate_every == 0):
                with clock("evaluation"):
                    held_out = evaluate(state.student.variables)
                curve.append({"round": number, "seconds": clock.total, **held_out})
                board.scalars({f"test/{name}": value for name, value in held_out.items()}, number)
                board.image("synthetic", grid(state, job), number)
            shown = {"accuracy": curve[-1]["accuracy"]} if curve else {}
            advance(metrics | shown)
            board.scalars(metrics, number)
            for name, times in metrics.items():
                if name.endswith(guard.SKIPPED):
                    skipped[name] = skipped.get(name, 0) + int(times)
            if number == job.plan.rounds:
                save.now(train.progress(state), state, progress)
            save.now_and_then(train.progress(state), state, progress)

        state = train.run(programs, job.plan, state, teacher, clock, on_round, common.stop)
    board.close()
    if not train.finished(job.plan, state):
        save.now(train.progress(state), state, progress)
        made = int(parallel.unreplicate(state.round))
        raise preemption.Preempted(f"Stopped by SIGTERM after synthesis {made}, and saved; the same command goes on.")
    return state, curve, skipped


def grid(state: train.TrainState, job: build.Job) -> np.ndarray:
    """The buffer's images, a row a class."""
    buffer = parallel.to_host(state.method.buffer)
    return report.class_grid(buffer.shards.rows.images, buffer.index.label, job.task.classes)


def train_yardstick(config: ConfigDict, dataset: data.Dataset, inputs: build.Inputs) -> float:
    """Accuracy of the student trained on as many real images, evenly over classes, as the buffer holds."""
    network = build.network(config.student.model, inputs, compute=config.compute)
    recipe = build.yardstick_recipe(config)
    key_init, key_fit = jax.random.split(jax.random.key(config.seed))
    subset = even_subset(dataset.train_labels, config.buffer.size, config.seed)
    shown = np.resize(subset, config.yardstick_steps * recipe.batch)
    images, labels = dataset.train_images[shown], dataset.train_labels[shown]
    state = parallel.to_devices(parallel.once(partial(optimization.init, network, recipe.tx))(key_init))
    state = supervised.fit(network, recipe, state, images, labels, key_fit, lambda *_: None, common.stop)
    if int(parallel.unreplicate(state.step)) < config.yardstick_steps:
        raise preemption.Preempted("Stopped by SIGTERM while measuring the yardstick; the same command goes on there.")
    return common.evaluator(config, network, dataset)(state.variables)["accuracy"]


def even_subset(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """`size` positions, as evenly over the classes as it goes, in random order within each."""
    order = np.random.default_rng(seed).permutation(len(labels))
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        rank[of_class] = np.arange(len(of_class))
    return order[np.argsort(rank[order], kind="stable")[:size]]


def write_report(
    workdir: Path, config: ConfigDict, state: train.TrainState, job: build.Job, summary: dict, curve: list[dict]
) -> None:
    """The three pictures, by the first host."""
    index = parallel.to_host(state.method.buffer.index)
    occupied = index.label != EMPTY
    counts = np.bincount(index.label[occupied], minlength=job.task.classes)
    images = grid(state, job)
    if not hosts.is_first():
        return
    title = f"{config.data.name}: synthetic images by the teacher's class"
    report.save_grid(workdir / "synthetic.png", images, title)
    report.save_histograms(workdir / "histograms.png", counts, index.confidence[occupied])
    lines = {
        "teacher": summary["teacher_accuracy"],
        "student, real subset": summary["real_subset_accuracy"],
    }
    times = [p["seconds"] for p in curve], [p["accuracy"] for p in curve]
    report.save_accuracy(workdir / "accuracy.png", *times, {k: v for k, v in lines.items() if v is not None})


if __name__ == "__main__":
    common.launch(main)
