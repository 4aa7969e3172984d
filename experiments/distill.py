"""Distil a teacher into a student without its data, by SSD-KD or another method (configs/digits.py:dafl).

    python experiments/distill.py --config=configs/digits.py --workdir=runs/digits

Trains the teacher first where the config names no checkpoint. Started again after a kill, it goes
on from the newest checkpoint and ends with the same bits. Real images are used to train that
teacher, to measure accuracy, and for the yardstick at the end; the student never sees one.
"""

from __future__ import annotations

from ssdkd_jax import runtime

runtime.prepare()

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import common
import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from ssdkd_jax import build, checkpoint, data, models, optimization, parallel, profiling, report, supervised, train
from ssdkd_jax.models import saved
from ssdkd_jax.types import Shown

TIMERS = {"wall": time.perf_counter, "cpu": time.process_time}
CLOCK = flags.DEFINE_enum(
    "clock",
    "wall",
    list(TIMERS),
    "What summary.json's seconds are; 'cpu' where others use the machine.",
)


def main() -> None:
    """Teacher, distillation, yardstick, report."""
    config, workdir = common.CONFIG.value, Path(common.WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    clock = report.Stopwatch({"start": runtime.seconds_since_start()}, TIMERS[CLOCK.value])
    with clock("data"):
        dataset, inputs = common.load_data(config)
    network, variables = common.obtain_teacher(config, workdir, dataset, inputs, clock)
    with clock("evaluation"):
        teacher = parallel.to_devices(variables)
        teacher_metrics = common.evaluator(config, network, dataset)(teacher)
    with clock("setup"):
        images = given_images(config, dataset)
        job = build.job(config, inputs, network, variables, images=images)
        first = parallel.once(partial(train.init, job.method, job.network, job.tx))(config.seed)
    show = exhibition(job, teacher)
    state, curve = distill(config, workdir, job, first, teacher, dataset, show, clock)
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
        "synthetic_images": job.method.made(config.schedule.rounds, build.student_steps(config)),
        "buffer_size": config.buffer.size,
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
        write_report(workdir, config, show(state), job, summary, curve)
    summary |= {
        "seconds": {**clock.seconds, "total": clock.total, "process": runtime.seconds_since_start()},
        "peak_memory_bytes": report.peak_memory_bytes(),
        "peak_device_memory_bytes": report.peak_device_memory_bytes(),
        "devices": [str(device) for device in jax.local_devices()],
        "versions": report.versions(),
        "clock": CLOCK.value,
        "seed": config.seed,
        "config": config.to_dict(),
        "curve": curve,
    }
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
    show: Callable[[train.TrainState], Shown],
    clock: report.Stopwatch,
) -> tuple[train.TrainState, list[dict]]:
    """Run or resume the distillation; the curve holds seconds and held-out metrics."""
    folder = workdir / "checkpoints"
    _, state, note = checkpoint.restore(folder, first) or (0, first, {"seconds": {}, "curve": []})
    for stage, seconds in note["seconds"].items():
        clock.seconds[stage] = clock.seconds.get(stage, 0.0) + seconds
    curve, done = note["curve"], int(state.round)
    state = parallel.to_devices(state)
    if done == job.plan.rounds:
        return state, curve
    with clock("compilation"):
        programs = train.compile_round(job.method, job.step, job.plan, state, teacher)
    evaluate = common.evaluator(config, job.network, dataset)
    save = common.Saver(folder, config.schedule.checkpoint_seconds)
    board = report.Board(workdir / "tensorboard")

    with report.progress("distillation", job.plan.rounds, done) as advance:

        def on_round(number: int, state: train.TrainState, metrics: dict[str, float]) -> None:
            distilled = max(0, number - job.plan.warmup)
            if number == job.plan.rounds or (distilled and distilled % config.schedule.evaluate_every == 0):
                with clock("evaluation"):
                    held_out = evaluate(state.student.variables)
                spent = {stage: clock.seconds.get(stage, 0.0) for stage in ("synthesis", "distillation")}
                curve.append({"round": number, "seconds": clock.total, **spent, **held_out})
                board.scalars({f"test/{name}": value for name, value in held_out.items()}, number)
                board.image("synthetic", grid(show(state), job), number)
            shown = {"accuracy": curve[-1]["accuracy"]} if curve else {}
            advance(metrics | shown)
            board.scalars(metrics, number)
            progress = {"seconds": clock.seconds, "curve": curve}
            if number == job.plan.rounds:
                save.now(number, state, progress)
            save.now_and_then(number, state, progress)

        state = train.run(programs, job.plan, state, teacher, clock, on_round)
    board.close()
    return state, curve


def given_images(config: ConfigDict, dataset: data.Dataset) -> np.ndarray:
    """The real images that the yardstick 'given' distils on; no other method is handed them by `build`."""
    if config.method.given < 0:
        return dataset.train_images
    return dataset.train_images[
        even_subset(dataset.train_labels, config.method.given or config.buffer.size, config.seed)
    ]


def exhibition(job: build.Job, teacher: dict) -> Callable[[train.TrainState], Shown]:
    """state -> what the student is taught from, on the host: the rows of all devices that hold an image."""
    program = parallel.pmap(lambda state, teacher, key: job.method.show(state, teacher, jax.random.wrap_key_data(key)))
    key = parallel.to_devices(jax.random.key_data(jax.random.key(0)))

    def show(state: train.TrainState) -> Shown:
        rows = program(state.method, teacher, key)
        rows = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), rows)
        return jax.tree.map(lambda x: x[rows.label >= 0], rows)

    return show


def grid(rows: Shown, job: build.Job) -> np.ndarray:
    """The images, a row a class."""
    return report.class_grid(rows.images, rows.label, job.task.classes)


def train_yardstick(config: ConfigDict, dataset: data.Dataset, inputs: build.Inputs) -> float:
    """Accuracy of the student trained on as many real images, evenly over classes, as the buffer holds."""
    network = build.network(config.student.model, inputs)
    recipe = build.yardstick_recipe(config)
    key_init, key_fit = jax.random.split(jax.random.key(config.seed))
    subset = even_subset(dataset.train_labels, config.buffer.size, config.seed)
    shown = np.resize(subset, config.yardstick_steps * recipe.batch)
    images, labels = dataset.train_images[shown], dataset.train_labels[shown]
    state = parallel.to_devices(parallel.once(partial(optimization.init, network, recipe.tx))(key_init))
    state = supervised.fit(network, recipe, state, images, labels, key_fit, lambda *_: None)
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
    workdir: Path, config: ConfigDict, rows: Shown, job: build.Job, summary: dict, curve: list[dict]
) -> None:
    """The three pictures, and the numbers behind the histograms."""
    counts = np.bincount(rows.label, minlength=job.task.classes)
    title = f"{config.data.name}: synthetic images by the teacher's class"
    report.save_grid(workdir / "synthetic.png", grid(rows, job), title)
    report.save_histograms(workdir / "histograms.png", counts, rows.confidence)
    np.savez_compressed(workdir / "shown.npz", **rows)
    lines = {
        "teacher": summary["teacher_accuracy"],
        "student, real subset": summary["real_subset_accuracy"],
    }
    times = [p["seconds"] for p in curve], [p["accuracy"] for p in curve]
    report.save_accuracy(workdir / "accuracy.png", *times, {k: v for k, v in lines.items() if v is not None})


if __name__ == "__main__":
    common.launch(main)
