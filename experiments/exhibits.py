"""The pictures and tables that a run leaves in its folder; the first host writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from ssdkd_jax import build, data
from ssdkd_jax.engine import hosts, loop, parallel
from ssdkd_jax.report import masks, plots
from ssdkd_jax.types import Preview, Sharded


def exhibition(job: build.Job, teacher: dict) -> Callable[[loop.TrainState], Preview]:
    """state -> what the student is taught from, on the host: the rows of all devices that hold an image."""
    program = parallel.pmap(
        lambda state, teacher, key: job.method.preview(state, teacher, jax.random.wrap_key_data(key))
    )
    key = parallel.to_devices(jax.random.key_data(jax.random.key(0)))

    def show(state: loop.TrainState) -> Preview:
        rows = parallel.to_host(Sharded(rows=program(state.method, teacher, key))).rows
        return jax.tree.map(lambda x: x[rows.label >= 0], rows)

    return show


def grid(rows: Preview, job: build.Job) -> np.ndarray:
    """The images, a row a class."""
    return plots.class_grid(rows.images, rows.label, job.task.classes)


def class_counts(rows: Preview, classes: int) -> list[int]:
    """How many of the images are of each class, as the teacher sees it."""
    return np.bincount(rows.label, minlength=classes).tolist()


def write_report(
    workdir: Path, config: ConfigDict, rows: Preview, job: build.Job, summary: dict, curve: list[dict]
) -> None:
    """The three pictures, and the numbers behind the histograms, by the first host."""
    if not hosts.is_first():
        return
    score = job.task.score
    title = f"{config.data.name}: synthetic images by the teacher's class"
    plots.save_grid(workdir / "synthetic.png", grid(rows, job), title)
    plots.save_histograms(workdir / "histograms.png", np.array(summary["class_counts"]), rows.confidence)
    np.savez_compressed(workdir / "shown.npz", **rows)
    lines = {
        "teacher": summary[f"teacher_{score}"],
        "student, real subset": summary[f"real_subset_{score}"],
    }
    times = [p["seconds"] for p in curve], [p[score] for p in curve]
    plots.save_accuracy(workdir / "accuracy.png", *times, {k: v for k, v in lines.items() if v is not None}, score)


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
        plots.save_grid(workdir / name, sheet, f"{config.data.name}: {rows}")
    names = dataset.names or [str(label) for label in range(classes)]
    scores = {"teacher": summary["teacher_scores"], "student": summary["student_scores"]}
    masks.write_table(workdir / "iou.csv", names, scores)
