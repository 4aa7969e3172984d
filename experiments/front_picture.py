"""The picture of the front page: a finished run's teacher, its synthetic images, and its student with its curve.

python experiments/front_picture.py --workdir=runs/digits --output=experiments/results/front.png
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from absl import app, flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssdkd_jax.report import plots

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the finished run.")
OUTPUT = flags.DEFINE_string("output", None, "PNG file to write.")
PER_CLASS = 10
TEACHER, STUDENT, GREY = "#1f4e79", "#a8480b", "#555555"


def main(_: list[str]) -> None:
    """Draw, and write."""
    folder = Path(WORKDIR.value)
    summary = json.loads((folder / "summary.json").read_text())
    with np.load(folder / "shown.npz") as shown:
        figure = drawn(summary, shown["images"], shown["label"])
    plots.write(Path(OUTPUT.value), figure)


def drawn(summary: dict, images: np.ndarray, labels: np.ndarray) -> Figure:
    """Teacher -> synthetic images -> student.

    Args:
        summary: what summary.json holds.
        images: uint8 [M, H, W, D], from which the student was taught.
        labels: [M], their classes as the teacher sees them.
    """
    figure = Figure(figsize=(10, 3.6), dpi=100)
    boxes = {"left": (0.01, 0.25, 0.21, 0.46), "grid": (0.31, 0.1, 0.29, 0.76), "curve": (0.75, 0.2, 0.23, 0.42)}
    left, middle, curve = (figure.add_axes(box) for box in boxes.values())
    network(left, "teacher", summary, TEACHER)
    pixels = plots.class_grid(images, labels, len(summary["class_counts"]), PER_CLASS)
    colours = {"cmap": "gray", "vmin": 0, "vmax": 255, "interpolation": "nearest"}
    middle.imshow(pixels if pixels.shape[-1] == 3 else pixels[..., 0], **colours)
    middle.axis("off")
    figure.text(0.455, 0.9, "synthetic images, a row a class", ha="center", fontsize=11)
    figure.text(0.455, 0.03, f"{len(images)} at a time, no real one", ha="center", fontsize=9, color=GREY)
    for tail, head in ((0.23, 0.305), (0.61, 0.685)):
        style = {"arrowstyle": "-|>", "color": GREY, "linewidth": 2, "mutation_scale": 22}
        left.annotate("", (head, 0.48), (tail, 0.48), "figure fraction", "figure fraction", style)
    words(figure, 0.865, 0.9, "student", summary, STUDENT)
    points = [(point["round"], 100 * point[summary["score"]]) for point in summary["curve"]]
    curve.plot(*zip(*points, strict=True), color=STUDENT, marker="o", markersize=4)
    curve.axhline(100 * summary[f"teacher_{summary['score']}"], color=TEACHER, linestyle="--", linewidth=1)
    curve.set(xlim=(0, None), ylim=(None, 100.5))
    curve.set_xlabel("round of new images and lessons", fontsize=9)
    curve.set_ylabel("% on real test images", fontsize=9)
    curve.text(0, 100 * summary[f"teacher_{summary['score']}"], " teacher", va="top", fontsize=8, color=TEACHER)
    curve.spines[["top", "right"]].set_visible(False)
    curve.tick_params(labelsize=8)
    return figure


def network(axes: Axes, name: str, summary: dict, colour: str) -> None:
    """A box with what is known of a network."""
    axes.set(xticks=[], yticks=[], facecolor="#eef3f8")
    for side in axes.spines.values():
        side.set_color(colour)
    words(axes.figure, 0.115, 0.61, name, summary, colour)
    axes.figure.text(0.115, 0.32, "frozen; its data are gone", ha="center", fontsize=9, color=GREY)


def words(figure: Figure, x: float, y: float, name: str, summary: dict, colour: str) -> None:
    """A network's part, name, size and score."""
    size, score = summary[f"{name}_parameters"], 100 * summary[f"{name}_{summary['score']}"]
    lines = f"{summary['config'][name]['model']}, {size:,} parameters\n{score:.1f} % {summary['score']}"
    figure.text(x, y, name, ha="center", fontsize=13, weight="bold", color=colour)
    figure.text(x, y - 0.14, lines, ha="center", fontsize=9)


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "output"])
    app.run(main)
