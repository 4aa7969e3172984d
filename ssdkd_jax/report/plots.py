"""Image grids and plots, as PNG."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np

from ssdkd_jax.engine import files

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def class_grid(images: np.ndarray, labels: np.ndarray, classes: int, per_class: int = 12) -> np.ndarray:
    """Images of each class, a row a class: uint8 [rows, columns, D], white where there is none.

    Of a class with more than `per_class` images, those evenly spread over its slots: a buffer's first
    slots hold its oldest images.
    """
    height, width, channels = images.shape[1:]
    rows = min(classes, 20)
    grid = np.full((rows, height + 2, per_class, width + 2, channels), 255, np.uint8)
    for row in range(rows):
        slots = np.flatnonzero(labels == row)
        chosen = np.linspace(0, len(slots) - 1, min(per_class, len(slots))).astype(int)
        for column, slot in enumerate(slots[chosen]):
            grid[row, 1:-1, column, 1:-1] = images[slot]
    return grid.reshape(rows * (height + 2), per_class * (width + 2), channels)


def save_grid(path: Path, grid: np.ndarray, title: str) -> None:
    """Write an image grid as PNG, three screen pixels to one."""
    height, width, channels = grid.shape
    figure = plt.figure(figsize=(width * 3 / 100, height * 3 / 100 + 0.4))
    axes = figure.add_axes((0, 0, 1, height * 3 / (height * 3 + 40)))
    axes.imshow(grid if channels == 3 else grid[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.axis("off")
    figure.suptitle(title, fontsize=9, y=0.99)
    write(path, figure, dpi=100)


def save_accuracy(path: Path, seconds: list[float], values: list[float], lines: dict[str, float], score: str) -> None:
    """Write the student's held-out `score` over time as PNG, with named horizontal lines."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(seconds, [100 * a for a in values], marker="o", markersize=3, label="data-free student")
    for (name, value), style in zip(lines.items(), ("--", ":", "-."), strict=False):
        axes.axhline(100 * value, linestyle=style, color="gray", label=f"{name} {100 * value:.2f} %")
    axes.set(xlabel="seconds, compilation included", ylabel=f"{score} on real test images, %")
    axes.legend(fontsize=8)
    write(path, figure, dpi=120)


def save_histograms(path: Path, counts: np.ndarray, confidence: np.ndarray) -> None:
    """Write the buffer's histograms of class and of difficulty (1 - teacher confidence) as PNG."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.bar(range(len(counts)), counts)
    left.set(xlabel="class, as the teacher sees it", ylabel="slots", title="classes of the buffer")
    right.hist(1 - confidence, bins=30, range=(0, 1))
    right.set(xlabel="difficulty, 1 - confidence of the teacher", ylabel="slots", title="difficulty of the buffer")
    write(path, figure, dpi=120)


def write(path: Path, figure: Figure, dpi: int) -> None:
    """Write a figure as PNG, whole or not at all, and close it."""
    content = io.BytesIO()
    figure.savefig(content, dpi=dpi)
    plt.close(figure)
    files.write_bytes(path, content.getvalue())
