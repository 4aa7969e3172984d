"""What a user sees of a segmentation: coloured masks below their images, and a table of IoU by class."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import matplotlib
import numpy as np

from ssdkd_jax import augment
from ssdkd_jax.engine import files

WIDTH = 1024  # pixels of a sheet, at most, unless a single image is wider


def palette(classes: int) -> np.ndarray:
    """A colour for each class, and black for what has none: uint8 [256, 3]."""
    colours = np.zeros((256, 3), np.uint8)
    shades = matplotlib.colormaps["tab20" if classes <= 20 else "hsv"].resampled(max(classes, 20))
    colours[:classes] = np.round(255 * shades(np.arange(classes))[:, :3])
    return colours


def spread(count: int, width: int) -> np.ndarray:
    """Which of `count` images of this width a sheet shows: evenly over them all."""
    columns = max(1, min(count, 12, WIDTH // width))
    return np.linspace(0, count - 1, columns).astype(int)


def answers(apply: Callable, variables: Mapping, images: np.ndarray) -> np.ndarray:
    """The class of each pixel: uint8 [B, H, W], of images uint8 [B, H, W, D]."""
    classes = jax.jit(lambda v, x: apply(v, augment.to_float(x)).argmax(-1).astype("uint8"))
    return np.concatenate([classes(variables, image[None]) for image in images])


def sheet(images: np.ndarray, labellings: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """A row of images, and below it a row of masks for each labelling: uint8 [rows, columns, 3], white between.

    Args:
        images: uint8 [B, H, W, D], D 1 or 3.
        labellings: uint8 [B, H, W] each.
        classes: C; labels beyond are black.
    """
    colours = palette(classes)
    rows = [np.broadcast_to(images, (*images.shape[:3], 3)), *(colours[labels] for labels in labellings)]
    framed = np.pad(np.stack(rows), ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    count, across, height, width, _ = framed.shape
    return framed.transpose(0, 2, 1, 3, 4).reshape(count * height, across * width, 3)


def write_table(path: Path, names: Sequence[str], scores: Mapping[str, Mapping[str, float]]) -> None:
    """IoU of each class by network, and their mean, as CSV; empty where a class was neither there nor answered.

    Args:
        names: of the C classes.
        scores: {network: the scores of `tasks.segmentation`}.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["class", *scores])
    for label, name in enumerate(names):
        iou = [found.get(f"iou_{label}") for found in scores.values()]
        table.writerow([name, *("" if value is None else f"{value:.4f}" for value in iou)])
    table.writerow(["mean", *(f"{found['miou']:.4f}" for found in scores.values())])
    files.write_text(path, text.getvalue())
