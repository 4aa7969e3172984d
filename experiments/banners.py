"""Flags of twenty countries, turned, with folds, in strong light or weak, on a part of a photograph.

Here the colours tell the classes. The flags are those of Debian's package famfamfam-flag-png, 16x11 pixels each. The
same flags serve for training and for tests, each time in another place, light and fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import letters
import numpy as np
import painting
from PIL import Image

from ssdkd_jax.data import Dataset
from ssdkd_jax.errors import MissingError

COUNTRIES = (
    *("at", "be", "br", "ca", "ch", "cz", "de", "dk", "es", "fi"),
    *("fr", "gb", "gr", "in", "it", "jp", "kr", "se", "tr", "za"),
)
SCALE = (0.6, 0.95)
FOLD, LIGHT = 0.25, (0.5, 1.0)  # how much darker a fold is at most; of a whole flag


def load(size: int, train: int, test: int, folder: Path) -> Dataset:
    """Flags of the files in a folder, 'at.png' and so on.

    Raises:
        MissingError: where one is not there.
    """
    paths = [folder / f"{country}.png" for country in COUNTRIES]
    if missing := [path for path in paths if not path.exists()]:
        raise MissingError(f"No flag {missing[0]}; install Debian's famfamfam-flag-png, or name another --banners.")
    flags = [Image.open(path).convert("RGBA") for path in paths]
    (train_x, train_y), (test_x, test_y) = (make(flags, count, size, seed) for seed, count in enumerate((train, test)))
    return Dataset(train_x, train_y, test_x, test_y, len(flags), *letters.moments(train_x), tuple(COUNTRIES))


def make(flags: Sequence[Image.Image], count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """So many images, uint8 [count, size, size, 3], and their labels, int32 [count], of each flag as many."""
    return painting.labelled(lambda label, rng: hung(flags[label], size, rng), len(flags), count, [size, seed])


def hung(flag: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """A flag on a ground, [size, size, 3]."""
    placed = painting.turned(flag, size, SCALE, rng) / np.float32(255)
    colours, opacity = placed[..., :3], placed[..., 3:]
    along = np.linspace(0, 2 * np.pi * rng.uniform(0.5, 2), size, dtype=np.float32)
    folds = 1 - FOLD * rng.random() * (1 + np.sin(along + rng.uniform(0, 2 * np.pi))) / 2
    behind = painting.ground(size, bool(rng.integers(2)), rng.uniform(0.5, 1, 3), rng)
    return behind + opacity * (rng.uniform(*LIGHT) * folds[None, :, None] * colours - behind)
