"""The pictures and tables that a run leaves in its folder; the first host writes them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ssdkd_jax import build
from ssdkd_jax.engine import files, hosts, keys, parallel
from ssdkd_jax.report import masks, plots
from ssdkd_jax.types import Network, Preview, Sharded, TrainState, Variables

if TYPE_CHECKING:
    from ssdkd_jax.data import Dataset


def previewer(job: build.Job, teacher: Variables) -> Callable[[TrainState], Preview]:
    """state -> what the student is taught from, on the host: the rows of all devices that hold an image."""
    key = keys.of_stage(keys.of_seed(0), keys.Stage.PREVIEW)
    program = parallel.pmap(lambda state, teacher: job.method.preview(state, teacher, key))

    def preview(state: TrainState) -> Preview:
        rows = parallel.to_host(Sharded(rows=program(state.method, teacher))).rows
        return jax.tree.map(lambda x: x[rows.label >= 0], rows)

    return preview


def class_counts(rows: Preview, classes: int) -> list[int]:
    """How many of the images are of each class, as the teacher sees it."""
    return np.bincount(rows.label, minlength=classes).tolist()


def write(
    folder: Path,
    config: ConfigDict,
    rows: Preview,
    summary: dict[str, Any],
    curve: Sequence[dict[str, Any]],
    dataset: Dataset,
    networks: Sequence[tuple[Network, Variables]],
) -> None:
    """The three pictures, the numbers behind the histograms, and for pixels the masks; by the first host.

    Args:
        rows: what the student was taught from at the end.
        networks: teacher and student, with their variables.
    """
    if not hosts.is_first():
        return
    score, counts = summary["score"], summary["class_counts"]
    title = f"{config.data.name}: synthetic images by the teacher's class"
    plots.save_grid(folder / "synthetic.png", plots.class_grid(rows.images, rows.label, len(counts)), title)
    plots.save_histograms(folder / "histograms.png", np.array(counts), rows.confidence)
    numbers = io.BytesIO()
    np.savez_compressed(numbers, **rows)
    files.write_bytes(folder / "shown.npz", numbers.getvalue())
    lines = {"teacher": summary[f"teacher_{score}"], "student, real subset": summary[f"real_subset_{score}"]}
    lines = {label: value for label, value in lines.items() if value is not None}
    seconds, scores = ([point[column] for point in curve] for column in ("seconds", score))
    plots.save_accuracy(folder / "accuracy.png", seconds, scores, lines, score)
    if dataset.test_labels.ndim > 1:
        write_masks(folder, config, rows.images, summary, dataset, networks)


def write_masks(
    folder: Path,
    config: ConfigDict,
    synthetic: np.ndarray,
    summary: dict[str, Any],
    dataset: Dataset,
    networks: Sequence[tuple[Network, Variables]],
) -> None:
    """What teacher and student make of real and of synthetic images, and their IoU by class.

    Args:
        synthetic: uint8 [M, H, W, D].
        networks: teacher and student, with their variables.
    """
    classes = dataset.classes
    for name, rows, images, truth in (
        ("masks.png", "image, labels, teacher, student", dataset.test_images, [dataset.test_labels]),
        ("synthetic_masks.png", "synthetic image, teacher, student", synthetic, []),
    ):
        columns = masks.spread(len(images), images.shape[2])
        answers = [masks.answers(network.apply, variables, images[columns]) for network, variables in networks]
        sheet = masks.sheet(images[columns], [*(labels[columns] for labels in truth), *answers], classes)
        plots.save_grid(folder / name, sheet, f"{config.data.name}: {rows}")
    names = dataset.names or [str(label) for label in range(classes)]
    scores = {"teacher": summary["teacher_scores"], "student": summary["student_scores"]}
    masks.write_table(folder / "iou.csv", names, scores)
