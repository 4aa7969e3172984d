"""Distil a teacher into a student without its data, by SSD-KD or another method (configs/digits.py:dafl).

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

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import common
import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from ssdkd_jax import (
    build,
    checkpoint,
    data,
    guard,
    hosts,
    masks,
    models,
    optimization,
    parallel,
    profiling,
    report,
    supervised,
    train,
)
from ssdkd_jax.models import saved
from ssdkd_jax.types import Sharded, Shown

TIMERS = {"wall": time.perf_counter, "cpu": time.process_time}
CLOCK = flags.DEFINE_enum(
    "clock",
    "wall",
    list(TIMERS),
    "What summary.json's seconds are; 'cpu' where others use the machine.",
)


NOT_SCORES = ("round", "seconds", "synthesis", "distillation")  # of a point of the curve


def main() -> None:
    """Claim the folder, and run."""
    workdir = Path(common.WORKDIR.value)
    with common.claimed(workdir):
        run(build.for_devices(common.CONFIG.value), workdir)


def run(config: ConfigDict, workdir: Path) -> None:
    """Teacher, distillation, yardstick, report."""
    clock = report.Stopwatch({"start": runtime.seconds_since_start()}, TIMERS[CLOCK.value])
    with clock("data"):
        dataset, inputs = common.load_data(config)
    network, variables = common.obtain_teacher(config, workdir, dataset, inputs, clock)
    with clock("evaluation"):
        teacher = parallel.to_devices(variables)
        teacher_scores = common.evaluator(config, network, dataset)(teacher)
    with clock("setup"):
        images = given_images(config, dataset)
        job = build.job(config, inputs, network, variables, images=images)
        first = parallel.once(partial(train.init, job.method, job.network, job.tx))(config.seed)
    show = exhibition(job, teacher)
    state, curve, skipped = distill(config, workdir, job, first, teacher, dataset, show, clock)
    parallel.check_replicated(state)
    score, student_scores = job.task.score, {k: v for k, v in curve[-1].items() if k not in NOT_SCORES}
    folder = workdir / "student"
    student = parallel.to_host(state.student.variables)
    saved.save(folder, student, common.note(config.student.model, inputs, **{score: student_scores[score]}))

    summary = {
        "score": score,
        f"teacher_{score}": teacher_scores[score],
        f"student_{score}": student_scores[score],
        f"real_subset_{score}": None,
        "teacher_scores": teacher_scores,
        "student_scores": student_scores,
        f"time_to_{score}": {
            f"{level:.2f}": next((p["seconds"] for p in curve if p[score] >= level), None)
            for level in (0.85, 0.88, 0.90, 0.91, 0.92, 0.95, 0.98)
        },
        "synthetic_images": job.method.made(config.schedule.rounds, build.student_steps(config)),
        "buffer_size": config.buffer.size,
        "skipped_steps": skipped,
        "distillation_steps": build.student_steps(config),
        "teacher_parameters": models.parameter_count(variables),
        "student_parameters": models.parameter_count(student),
    }
    if config.yardstick_steps:
        with clock("yardstick"):
            summary[f"real_subset_{score}"] = train_yardstick(config, dataset, inputs)
    if config.measure_unit:
        in_loop = profiling.in_loop(config, inputs, network, variables)
        start = profiling.filled_state(in_loop, config.seed)
        summary["unit_seconds"] = profiling.distill_seconds(in_loop, start, teacher, times=20)
    with clock("report"):
        rows = show(state)
        write_report(workdir, config, rows, job, summary, curve)
        if dataset.test_labels.ndim > 1:
            networks = (network, variables), (job.network, student)
            write_masks(workdir, config, rows.images, summary, dataset, networks)
    summary |= {
        "seconds": {**clock.seconds, "total": clock.total, "process": runtime.seconds_since_start()},
        "peak_memory_bytes": report.peak_memory_bytes(),
        "peak_device_memory_bytes": report.peak_device_memory_bytes(),
        "devices": [str(device) for device in jax.devices()],
        "versions": report.versions(),
        "clock": CLOCK.value,
        "seed": config.seed,
        "config": common.CONFIG.value.to_dict(),
        "curve": curve,
    }
    if not hosts.is_first():
        return
    checkpoint.write_json(workdir / "summary.json", summary)
    scores = {name: summary[f"{name}_{score}"] for name in ("teacher", "student", "real_subset")}
    shown = (f"{name}_{score} {value:.4f}" for name, value in scores.items() if value is not None)
    print(f"{', '.join(shown)}; {clock.total:.0f} s; see {workdir}/summary.json")


def distill(
    config: ConfigDict,
    workdir: Path,
    job: build.Job,
    first: train.TrainState,
    teacher: dict,
    dataset: data.Dataset,
    show: Callable[[train.TrainState], Shown],
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
                spent = {stage: clock.seconds.get(stage, 0.0) for stage in ("synthesis", "distillation")}
                curve.append({"round": number, "seconds": clock.total, **spent, **held_out})
                board.scalars({f"test/{name}": value for name, value in held_out.items()}, number)
                board.image("synthetic", grid(show(state), job), number)
            shown = {job.task.score: curve[-1][job.task.score]} if curve else {}
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
        rows = parallel.to_host(Sharded(rows=program(state.method, teacher, key))).rows
        return jax.tree.map(lambda x: x[rows.label >= 0], rows)

    return show


def grid(rows: Shown, job: build.Job) -> np.ndarray:
    """The images, a row a class."""
    return report.class_grid(rows.images, rows.label, job.task.classes)


def train_yardstick(config: ConfigDict, dataset: data.Dataset, inputs: build.Inputs) -> float:
    """Score of the student trained on as many real images, evenly over classes, as the buffer holds.

    Images whose pixels are labelled are drawn evenly over the set.
    """
    task = build.task(config, inputs.classes)
    network = build.network(config.student.model, inputs, compute=config.compute)
    recipe = build.yardstick_recipe(config)
    key_init, key_fit = jax.random.split(jax.random.key(config.seed))
    whole = dataset.train_labels if dataset.train_labels.ndim == 1 else np.zeros(len(dataset.train_labels), np.int32)
    subset = even_subset(whole, config.buffer.size, config.seed)
    shown = np.resize(subset, config.yardstick_steps * recipe.batch)
    images, labels = dataset.train_images[shown], dataset.train_labels[shown]
    state = parallel.to_devices(parallel.once(partial(optimization.init, network, recipe.tx))(key_init))
    state = supervised.fit(network, task, recipe, state, images, labels, key_fit, lambda *_: None, common.stop)
    if int(parallel.unreplicate(state.step)) < config.yardstick_steps:
        raise preemption.Preempted("Stopped by SIGTERM while measuring the yardstick; the same command goes on there.")
    return common.evaluator(config, network, dataset)(state.variables)[task.score]


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
    """The three pictures, and the numbers behind the histograms, by the first host."""
    if not hosts.is_first():
        return
    score, counts = job.task.score, np.bincount(rows.label, minlength=job.task.classes)
    title = f"{config.data.name}: synthetic images by the teacher's class"
    report.save_grid(workdir / "synthetic.png", grid(rows, job), title)
    report.save_histograms(workdir / "histograms.png", counts, rows.confidence)
    np.savez_compressed(workdir / "shown.npz", **rows)
    lines = {
        "teacher": summary[f"teacher_{score}"],
        "student, real subset": summary[f"real_subset_{score}"],
    }
    times = [p["seconds"] for p in curve], [p[score] for p in curve]
    report.save_accuracy(workdir / "accuracy.png", *times, {k: v for k, v in lines.items() if v is not None}, score)


def write_masks(
    workdir: Path,
    config: ConfigDict,
    synthetic: np.ndarray,
    summary: dict,
    dataset: data.Dataset,
    networks: Sequence[tuple[build.Network, dict]],
) -> None:
    """What teacher and student make of real and of synthetic images, and their IoU by class; by the first host."""
    if not hosts.is_first():
        return
    classes = dataset.classes
    for name, rows, images, truth in (
        ("masks.png", "image, labels, teacher, student", dataset.test_images, [dataset.test_labels]),
        ("synthetic_masks.png", "synthetic image, teacher, student", synthetic, []),
    ):
        shown = masks.spread(len(images), images.shape[2])
        answers = [masks.answers(network.apply, variables, images[shown]) for network, variables in networks]
        sheet = masks.sheet(images[shown], [*(labels[shown] for labels in truth), *answers], classes)
        report.save_grid(workdir / name, sheet, f"{config.data.name}: {rows}")
    names = dataset.names or [str(label) for label in range(classes)]
    scores = {"teacher": summary["teacher_scores"], "student": summary["student_scores"]}
    masks.write_table(workdir / "iou.csv", names, scores)


if __name__ == "__main__":
    common.launch(main)
