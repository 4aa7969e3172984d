"""The pictures and tables that a run leaves in its folder; the first host writes them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ssdkd_jax import build
from ssdkd_jax.engine import files, hosts, keys, parallel
from ssdkd_jax.report import masks, plots
from ssdkd_jax.types import Network, Preview, Sharded, Task, TrainState, Variables

if TYPE_CHECKING:
    from ssdkd_jax.data import Dataset


def previewer(
    job: build.Job, teacher: Variables, pick: Callable[[Preview], Preview] = lambda rows: rows
) -> Callable[[TrainState], Preview]:
    """state -> what the student is taught from, on the host: the rows of all devices that hold an image.

    Args:
        pick: chooses among the rows on the devices.
    """
    key = keys.of_stage(keys.of_seed(0), keys.Stage.PREVIEW)
    program = parallel.pmap(lambda state, teacher: pick(job.method.preview(state, teacher, key)))

    def preview(state: TrainState) -> Preview:
        rows = parallel.to_host(Sharded(rows=program(state.method, teacher))).rows
        return jax.tree.map(lambda x: x[rows.label >= 0], rows)

    return preview


def of_each_class(classes: int, axis: str | None) -> Callable[[Preview], Preview]:
    """rows -> those of a `plots.class_grid`: up to `plots.PER_CLASS` of each class it shows, spread over the rows.

    Both are [M / devices, ...] on a device.
    """
    of_class, columns = (jnp.arange(n, dtype=jnp.int32) for n in (min(classes, plots.ROWS), plots.PER_CLASS))
    of_class = of_class[:, None]

    def pick(rows: Preview) -> Preview:
        label, confidence = (parallel.all_rows(x, axis) for x in (rows.label, rows.confidence))
        by_class = jnp.argsort(label).astype(jnp.int32)
        first, end = (
            jnp.searchsorted(label[by_class], of_class, side=side).astype(jnp.int32) for side in ("left", "right")
        )
        shown = jnp.minimum(end - first, plots.PER_CLASS)
        places = by_class[first + columns * (end - first - 1) // jnp.maximum(shown - 1, 1)]
        chosen = jnp.where(columns < shown, of_class, -1)
        padding = (0, -chosen.size % parallel.device_count(axis))
        places, chosen = jnp.pad(places.ravel(), padding), jnp.pad(chosen.ravel(), padding, constant_values=-1)
        images = parallel.take_rows(rows.images, places, axis)
        chosen, confidence = (parallel.local_rows(x, axis) for x in (chosen, confidence[places]))
        return Preview(images=images, label=chosen, confidence=confidence)

    return pick


def class_counts(rows: Preview, classes: int) -> list[int]:
    """How many of the images are of each class, as the teacher sees it."""
    return np.bincount(rows.label, minlength=classes).tolist()


def write(
    folder: Path,
    task: Task,
    rows: Preview,
    summary: dict[str, Any],
    dataset: Dataset | None,
    networks: Sequence[tuple[Network, Variables]],
) -> None:
    """The three pictures, the numbers behind the histograms, and for pixels the masks; by the first host.

    Args:
        rows: what the student was taught from at the end.
        dataset: for masks of real images; None makes those of synthetic ones alone.
        networks: teacher and student, with their variables.
    """
    if not hosts.is_first():
        return
    score, counts, curve = summary["score"], summary["class_counts"], summary["curve"]
    title = "synthetic images by the teacher's class"
    plots.write(folder / "synthetic.png", plots.grid(plots.class_grid(rows.images, rows.label, len(counts)), title))
    plots.write(folder / "histograms.png", plots.histograms(np.array(counts), rows.confidence))
    numbers = io.BytesIO()
    np.savez_compressed(numbers, **rows)
    files.write_bytes(folder / "shown.npz", numbers.getvalue())
    lines = {"teacher": summary[f"teacher_{score}"], "student, real subset": summary[f"real_subset_{score}"]}
    lines = {label: value for label, value in lines.items() if value is not None}
    plots.write(folder / "accuracy.png", plots.curves(curve, lines, score))
    if task.score == "miou":
        write_masks(folder, task.classes, rows.images, summary, dataset, networks)


def write_masks(
    folder: Path,
    classes: int,
    synthetic: np.ndarray,
    summary: dict[str, Any],
    dataset: Dataset | None,
    networks: Sequence[tuple[Network, Variables]],
) -> None:
    """What teacher and student make of synthetic and, where there are any, of real images, and their IoU by class.

    Args:
        synthetic: uint8 [M, H, W, D].
        networks: teacher and student, with their variables.
    """
    sheets = [("synthetic_masks.png", "synthetic image, teacher, student", synthetic, [])]
    if dataset is not None:
        sheets.append(("masks.png", "image, labels, teacher, student", dataset.test_images, [dataset.test_labels]))
    for name, rows, images, truth in sheets:
        columns = masks.spread(len(images), images.shape[2])
        answers = [masks.answers(network.apply, variables, images[columns]) for network, variables in networks]
        sheet = masks.sheet(images[columns], [*(labels[columns] for labels in truth), *answers], classes)
        plots.write(folder / name, plots.grid(sheet, rows))
    if dataset is None:
        return
    names = dataset.names or [str(label) for label in range(classes)]
    scores = {"teacher": summary["teacher_scores"], "student": summary["student_scores"]}
    masks.write_table(folder / "iou.csv", names, scores)
