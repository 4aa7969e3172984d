"""The data sets of a protocol by name: of digits, clothes, letters and flags, grey and in colour, 16 to 40 pixels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import banners
import letters
import numpy as np
from absl import flags
from PIL import Image

from ssdkd_jax import data, settings
from ssdkd_jax.data import Dataset, coloured

FASHION = flags.DEFINE_string(
    "fashion", "/usr/share/datasets/fashion-mnist", "Folder of Fashion-MNIST's IDX files, of dataset-fashion-mnist."
)
FONTS = flags.DEFINE_string("fonts", "/usr/share/fonts/truetype", "Folder of fonts, see letters.py.")
BANNERS = flags.DEFINE_string("banners", "/usr/share/flags/countries/16x11", "Folder of flags, see banners.py.")
COPIES = 24  # of a digit, each in other colours
RARE = 0.05  # what is left of every second class
FIVE = (1, 5, 7, 8, 9)  # trousers, sandals, sneakers, bags, boots


def fashion() -> Dataset:
    """Fashion-MNIST, 28x28x1."""
    return data.load("fashion_mnist", FASHION.value)


def rare(dataset: Dataset) -> Dataset:
    """A data set that lacks most training images of every second class; its tests stay."""
    few = dataset.train_labels % 2 == 1
    place = np.cumsum(few) - 1
    kept = ~few | (place < RARE * few.sum())
    return dataset._replace(train_images=dataset.train_images[kept], train_labels=dataset.train_labels[kept])


def digits_colour() -> Dataset:
    """Digits in colour on patterned grounds, 32x32x3."""
    grey = data.load("digits")
    repeated = grey.train_images.repeat(COPIES, 0), grey.test_images
    train, test = (coloured.make(images, seed) for seed, images in enumerate(repeated))
    labels = grey.train_labels.repeat(COPIES)
    return Dataset(train, labels, test, grey.test_labels, grey.classes, *letters.moments(train))


def chosen(dataset: Dataset, classes: Sequence[int], size: int) -> Dataset:
    """Some classes of grey images, resized."""

    def part(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places = np.isin(labels, classes)
        resized = [
            np.asarray(Image.fromarray(image[..., 0]).resize((size, size), Image.Resampling.BOX))
            for image in images[places]
        ]
        return np.stack(resized)[..., None], np.searchsorted(classes, labels[places]).astype(np.int32)

    train, test = (part(*split) for split in (dataset[:2], dataset[2:4]))
    return Dataset(*train, *test, len(classes), *letters.moments(train[0]))


def alphabet(signs: str, size: int, colour: bool, train: int) -> Dataset:
    """Letters, with 5,000 of them as tests."""
    return letters.load(letters.Style(signs, size, colour, train, 5_000), Path(FONTS.value))


class Made(NamedTuple):
    """A data set as a protocol knows it.

    Attributes:
        shape: (H, W, D) of an image.
        classes: C.
        make: reads or draws it.
    """

    shape: tuple[int, int, int]
    classes: int
    make: Callable[[], Dataset]


SETS: Mapping[str, Made] = {
    "digits": Made((16, 16, 1), 10, lambda: data.load("digits")),
    "digits_colour": Made((32, 32, 3), 10, digits_colour),
    "fashion": Made((28, 28, 1), 10, fashion),
    "fashion_rare": Made((28, 28, 1), 10, lambda: rare(fashion())),
    "fashion_five": Made((20, 20, 1), 5, lambda: chosen(fashion(), FIVE, 20)),
    "fashion_colour": Made((32, 32, 3), 10, lambda: data.load("fashion_colour", FASHION.value)),
    "letters": Made((24, 24, 1), 26, lambda: alphabet(letters.LATIN, 24, False, 20_000)),
    "letters_colour": Made((32, 32, 3), 26, lambda: alphabet(letters.LATIN, 32, True, 30_000)),
    "letters_rare": Made((32, 32, 3), 26, lambda: rare(alphabet(letters.LATIN, 32, True, 40_000))),
    "greek": Made((40, 40, 3), 20, lambda: alphabet(letters.GREEK, 40, True, 20_000)),
    "flags": Made((32, 32, 3), 20, lambda: banners.load(32, 20_000, 5_000, Path(BANNERS.value))),
}


def known(name: str) -> Made:
    """The entry of a name.

    Raises:
        InputError: for an unknown one, with the nearest.
    """
    return settings.chosen(SETS, "data", name)


@functools.cache
def load(name: str) -> Dataset:
    """A data set; made once.

    Raises:
        InputError: as `known`, or where the files are not there.
    """
    return known(name).make()
