"""Image grids and plots, as figures and as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ssdkd_jax.engine import files

ROWS, PER_CLASS = 20, 12  # of a grid of images by class, at most


class Picture(Figure):
    """A figure that a notebook shows, whichever backend of pyplot it has, or none."""

    def _repr_png_(self) -> bytes:
        return png(self)


def class_grid(images: np.ndarray, labels: np.ndarray, classes: int, per_class: int = PER_CLASS) -> np.ndarray:
    """Images of each class, a row a class: uint8 [rows, columns, D], white where there is none.

    Of a class with more than `per_class` images, those evenly spread over its slots, since a buffer is
    filled from its last slot to its first.
    """
    height, width, channels = images.shape[1:]
    rows = min(classes, ROWS)
    grid = np.full((rows, height + 2, per_class, width + 2, channels), 255, np.uint8)
    for row in range(rows):
        slots = np.flatnonzero(labels == row)
        chosen = np.linspace(0, len(slots) - 1, min(per_class, len(slots))).astype(int)
        for column, slot in enumerate(slots[chosen]):
            grid[row, 1:-1, column, 1:-1] = images[slot]
    return grid.reshape(rows * (height + 2), per_class * (width + 2), channels)


def grid(images: np.ndarray, title: str) -> Figure:
    """An image grid [rows, columns, D], three screen pixels to one."""
    height, width, channels = images.shape
    figure = Picture(figsize=(width * 3 / 100, height * 3 / 100 + 0.4), dpi=100)
    axes = figure.add_axes((0, 0, 1, height * 3 / (height * 3 + 40)))
    axes.imshow(images if channels == 3 else images[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.axis("off")
    figure.suptitle(title, fontsize=9, y=0.99)
    return figure


def curves(curve: Sequence[Mapping[str, float]], lines: Mapping[str, float], score: str) -> Figure:
    """The student's `score` and its agreement with the teacher on fresh images over time, with horizontal lines.

    Args:
        curve: points with 'seconds', and the two as far as they are known.
        lines: name -> score of another network.
    """
    labels = {score: f"data-free student, {score} on real test images", "agreement": "agreement on fresh images"}
    figure = Picture(figsize=(6, 4), layout="constrained", dpi=120)
    axes = figure.subplots()
    for name, label in labels.items():
        points = [(point["seconds"], 100 * point[name]) for point in curve if name in point]
        if points:
            style = {"color": "C0"} if name == score else {"color": "C1", "alpha": 0.7}
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label, **style)
    for (name, value), style in zip(lines.items(), ("--", ":", "-."), strict=False):
        axes.axhline(100 * value, linestyle=style, color="gray", label=f"{name} {100 * value:.2f} %")
    axes.set(xlabel="seconds, compilation included", ylabel="%")
    axes.legend(fontsize=8)
    return figure


def histograms(counts: np.ndarray, confidence: np.ndarray) -> Figure:
    """The buffer's histograms of class and of difficulty, 1 - teacher confidence."""
    figure = Picture(figsize=(9, 3.5), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    left.bar(range(len(counts)), counts)
    left.set(xlabel="class, as the teacher sees it", ylabel="slots", title="classes of the buffer")
    right.hist(1 - confidence, bins=30, range=(0, 1))
    right.set(xlabel="difficulty, 1 - confidence of the teacher", ylabel="slots", title="difficulty of the buffer")
    return figure


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def write(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, whole or not at all."""
    files.write_bytes(path, png(figure))
