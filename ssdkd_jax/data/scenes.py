"""Scenes made on the fly from real images of single items: scattered, scaled, overlapping, on a textured ground."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

GROUND = 0
ITEMS = (2, 3)  # that a scene is offered, both included
SCALE = (0.45, 0.75)  # side of an item, of the scene's
VISIBLE = 0.5  # an item covers a pixel from this opacity
COVERED = 0.15  # no item may hide more than this of what is seen of another
TRIES = 8  # places that an item is offered before it is left out


def make(
    images: np.ndarray, labels: np.ndarray, count: int, size: int, seed: int | list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """`count` scenes and their masks; the same for the same arguments.

    Args:
        images: uint8 [M, h, w, 1], bright items on black.
        labels: int [M], the class of each.
        count: of scenes.
        size: side of a scene, in pixels.
        seed: of numpy's generator.

    Returns:
        Scenes uint8 [count, size, size, 1], and masks uint8 [count, size, size]: `GROUND`, or 1 + the
        class of the topmost item.
    """
    rng = np.random.default_rng(seed)
    drawn = [scene(rng, images[..., 0], labels, size) for _ in range(count)]
    pixels, masks = (np.stack(parts) for parts in zip(*drawn, strict=True))
    return np.round(255 * pixels).astype(np.uint8)[..., None], masks


def scene(rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One scene, float64 [size, size] in [0, 1], and its mask, uint8 [size, size]."""
    pixels, mask, owner = ground(rng, size), np.full((size, size), GROUND, np.uint8), np.zeros((size, size), int)
    for item in range(1, 1 + rng.integers(ITEMS[0], ITEMS[1] + 1)):
        which = rng.integers(len(images))
        if (opacity := placed(rng, images[which], owner)) is None:
            continue
        shadow = ndimage.gaussian_filter(opacity, size / 32)
        pixels = pixels * (1 - 0.7 * shadow) * (1 - opacity) + rng.uniform(0.7, 1.0) * opacity
        mask[opacity > VISIBLE] = 1 + labels[which]
        owner[opacity > VISIBLE] = item
    return np.clip(pixels, 0, 1), mask


def placed(rng: np.random.Generator, image: np.ndarray, owner: np.ndarray) -> np.ndarray | None:
    """The opacity of an item somewhere on the scene, [size, size] in [0, 1]; None where it finds no place.

    Args:
        image: uint8 [h, w].
        owner: int [size, size], which item each pixel shows, 0 for the ground.
    """
    size, visible = len(owner), np.bincount(owner.ravel())
    side = round(size * rng.uniform(*SCALE))
    item = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)) / 255
    for _ in range(TRIES):
        top, left = rng.integers(-side // 8, size - 7 * side // 8, 2)
        rows, columns = (slice(max(start, 0), min(start + side, size)) for start in (top, left))
        opacity = np.zeros((size, size))
        opacity[rows, columns] = item[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        hidden = np.bincount(owner[opacity > VISIBLE], minlength=len(visible))
        if (hidden[1:] <= COVERED * visible[1:]).all():
            return opacity
    return None


def ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """A texture: three gratings of random direction and period, and noise; [size, size] around 0.25."""
    y, x = np.mgrid[:size, :size]
    texture = rng.uniform(0.15, 0.35) + rng.normal(0, 0.03, (size, size))
    for _ in range(3):
        direction, period, phase = rng.uniform((0, size / 12, 0), (np.pi, size / 2, 2 * np.pi))
        along = np.cos(direction) * x + np.sin(direction) * y
        texture += rng.uniform(0, 0.06) * np.sin(2 * np.pi * along / period + phase)
    return texture
