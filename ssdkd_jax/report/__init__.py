"""What a user sees of a run: progress bar, TensorBoard, plots, summary.json."""

from __future__ import annotations

import contextlib
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import jax
import matplotlib
import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

matplotlib.use("Agg")
from matplotlib import pyplot as plt

IN_THE_BAR = ("accuracy", "miou", "inversion", "distillation")


class Stopwatch:
    """Seconds by stage, summed over a run and its resumptions.

    Args:
        seconds: by stage, to begin with.
        timer: of wall-clock seconds; `time.process_time` counts the processor seconds of this process instead.
    """

    def __init__(self, seconds: dict[str, float] | None = None, timer: Callable[[], float] = time.perf_counter):
        self.seconds, self.timer = dict(seconds or {}), timer

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = self.timer()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + self.timer() - start

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())


@contextlib.contextmanager
def progress(stage: str, total: int, done: int = 0, shown: bool = True) -> Iterator[Callable[[dict[str, float]], None]]:
    """A bar of `total` units with time left; the value it yields advances it by one and shows metrics."""
    with tqdm(total=total, initial=done, desc=stage, dynamic_ncols=True, file=sys.stderr, disable=not shown) as bar:

        def advance(metrics: dict[str, float]) -> None:
            shown = {name: f"{value:.4g}" for name, value in metrics.items() if name in (*IN_THE_BAR, "loss")}
            bar.set_postfix(shown, refresh=False)
            bar.update()

        yield advance


class Board:
    """TensorBoard scalars and image grids below `folder`; nowhere where it is None."""

    def __init__(self, folder: Path | None):
        self.writer = SummaryWriter(str(folder or ""), write_to_disk=folder is not None)

    def scalars(self, metrics: dict[str, float], step: int) -> None:
        """One point of each curve."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """An image [H, W, D], uint8."""
        self.writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is pending."""
        self.writer.close()


def class_grid(images: np.ndarray, labels: np.ndarray, classes: int, per_class: int = 12) -> np.ndarray:
    """Images of each class, a row a class: uint8 [rows, columns, D], white where there is none.

    Of a class with more than `per_class` images, those evenly spread over its slots: a buffer's first
    slots hold its oldest images.
    """
    height, width, channels = images.shape[1:]
    shown = min(classes, 20)
    grid = np.full((shown, height + 2, per_class, width + 2, channels), 255, np.uint8)
    for row in range(shown):
        slots = np.flatnonzero(labels == row)
        chosen = np.linspace(0, len(slots) - 1, min(per_class, len(slots))).astype(int)
        for column, slot in enumerate(slots[chosen]):
            grid[row, 1:-1, column, 1:-1] = images[slot]
    return grid.reshape(shown * (height + 2), per_class * (width + 2), channels)


def save_grid(path: Path, grid: np.ndarray, title: str) -> None:
    """Write an image grid as PNG, three screen pixels to one."""
    height, width, channels = grid.shape
    figure = plt.figure(figsize=(width * 3 / 100, height * 3 / 100 + 0.4))
    axes = figure.add_axes((0, 0, 1, height * 3 / (height * 3 + 40)))
    axes.imshow(grid if channels == 3 else grid[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.axis("off")
    figure.suptitle(title, fontsize=9, y=0.99)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def save_accuracy(path: Path, seconds: list[float], values: list[float], lines: dict[str, float], score: str) -> None:
    """Write the student's held-out `score` over time as PNG, with named horizontal lines."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(seconds, [100 * a for a in values], marker="o", markersize=3, label="data-free student")
    for (name, value), style in zip(lines.items(), ("--", ":", "-."), strict=False):
        axes.axhline(100 * value, linestyle=style, color="gray", label=f"{name} {100 * value:.2f} %")
    axes.set(xlabel="seconds, compilation included", ylabel=f"{score} on real test images, %")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def save_histograms(path: Path, counts: np.ndarray, confidence: np.ndarray) -> None:
    """Write the buffer's histograms of class and of difficulty (1 - teacher confidence) as PNG."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.bar(range(len(counts)), counts)
    left.set(xlabel="class, as the teacher sees it", ylabel="slots", title="classes of the buffer")
    right.hist(1 - confidence, bins=30, range=(0, 1))
    right.set(xlabel="difficulty, 1 - confidence of the teacher", ylabel="slots", title="difficulty of the buffer")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ssdkd_jax")
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_device_memory_bytes() -> int | None:
    """Most memory that any accelerator held so far; None on a CPU, which keeps no count."""
    held = [device.memory_stats() or {} for device in jax.local_devices()]
    return max((stats.get("peak_bytes_in_use", 0) for stats in held), default=0) or None
