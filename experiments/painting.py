"""What drawn images share: their labels, a thing that is turned and moved, a ground cut from a photograph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from ssdkd_jax.errors import needs

TURN, SHIFT = 0.25, 0.08  # at most: radians, and the part of an image's side
ZOOMS = (1, 4)  # pixels of a photograph for one of a ground, the last excluded
CONTRAST = 0.4  # between the darkest and the brightest pixel of a ground


def labelled(
    draw: Callable[[int, np.random.Generator], np.ndarray], classes: int, count: int, seed: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """So many drawn images and their labels in random order, of each class as many as of another.

    Args:
        draw: (label, generator) -> an image [H, W, D] in [0, 1].
        seed: of numpy's generator, beside the number of classes.

    Returns:
        uint8 [count, H, W, D], int32 [count].
    """
    rng = np.random.default_rng([classes, *seed])
    labels = rng.permutation(np.arange(count) % classes).astype(np.int32)
    images = [draw(label, rng) for label in labels]
    return np.round(255 * np.clip(np.stack(images), 0, 1)).astype(np.uint8), labels


def turned(
    image: Image.Image, size: int, scale: tuple[float, float], rng: np.random.Generator, turn: float = TURN
) -> np.ndarray:
    """An image as a square of another size: its middle near the middle, turned, and larger or smaller.

    Args:
        image: of any mode and size.
        size: of the square, in pixels.
        scale: least and largest side of the image, as a part of the square's.
        rng: draws the place.
        turn: the largest angle, in radians.

    Returns:
        uint8 [size, size], or [size, size, channels].
    """
    fine, angle = 2 * size, rng.uniform(-turn, turn)
    shrunk = max(image.size) / (fine * rng.uniform(*scale))
    matrix = shrunk * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = fine * (0.5 + rng.uniform(-SHIFT, SHIFT, 2))
    offset = np.array(image.size) / 2 - matrix @ middle
    rows = [value for row, moved in zip(matrix, offset, strict=True) for value in (*row, moved)]
    placed = image.transform((fine, fine), Image.Transform.AFFINE, rows, Image.Resampling.BILINEAR)
    return np.asarray(placed.reduce(2))


@functools.cache
def photographs() -> tuple[np.ndarray, ...]:
    """Scikit-learn's two photographs, uint8 [427, 640, 3]."""
    with needs("data"):
        from sklearn.datasets import load_sample_images

    return tuple(load_sample_images().images)


def ground(size: int, bright: bool, tint: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A tinted square of a photograph, float32 [size, size, 3]: in the upper part of [0, 1], or in the lower.

    Args:
        tint: float [3], by which the channels are multiplied.
    """
    photograph = photographs()[rng.integers(len(photographs()))]
    zoom = rng.integers(*ZOOMS)
    top, left = (rng.integers(side - zoom * size + 1) for side in photograph.shape[:2])
    part = photograph[top : top + zoom * size : zoom, left : left + zoom * size : zoom] / np.float32(255)
    return ((1 - CONTRAST if bright else 0) + CONTRAST * part) * np.asarray(tint, np.float32)
