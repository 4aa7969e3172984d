"""Real images, for training teachers and for evaluation; nothing that distils imports this file."""

from __future__ import annotations

import gzip
import importlib
import math
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssdkd_jax import settings
from ssdkd_jax.data import coloured, scenes
from ssdkd_jax.errors import InputError, MissingError, needs

SCENES = {"train": 4500, "test": 500}
SCENE_SIZE = 64
IDX_AXES, IDX_BYTES = 4, 2**30  # at most; images of all the known sets of this format have less


class Dataset(NamedTuple):
    """Labelled images.

    Attributes:
        train_images, test_images: uint8 [M, H, W, D].
        train_labels, test_labels: int32 [M]; of pixels uint8 [M, H, W], 255 where there is none.
        classes: C.
        mean, std: per channel, of images in [0, 1].
        names: of the classes; () where they are only numbered.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    names: tuple[str, ...] = ()


def load(name: str, folder: str = "") -> Dataset:
    """The data set `name`.

    Args:
        name: 'digits', 'fashion_mnist', 'cifar10', 'cifar100', 'fashion_colour', 'scenes' or 'nyuv2'.
        folder: for fashion_mnist and fashion_colour, the folder of the IDX .gz files; otherwise, and for
            these two without such files, the tfds data directory ('' is tfds's own).
            For scenes, '' takes the items from digits, any other folder from fashion_mnist.

    Raises:
        ValueError: for an unknown name.
        FileNotFoundError: where the data, or a package that reads them, are not there, with the way to get them.
    """
    return settings.chosen(_LOADERS, "data.name", name)(folder)


def check(name: str) -> None:
    """Raise InputError, with the nearest name, where there is no such data set."""
    settings.chosen(_LOADERS, "data.name", name)


def digits(folder: str = "") -> Dataset:
    """scikit-learn's 1,797 handwritten digits, doubled to 16x16; 1,297 to train and 500 to test."""
    del folder
    with needs("data"):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

    raw = load_digits()
    images = np.round(raw.images * (255 / 16)).astype(np.uint8).repeat(2, 1).repeat(2, 2)[..., None]
    train_x, test_x, train_y, test_y = train_test_split(
        images, raw.target.astype(np.int32), test_size=500, random_state=0, stratify=raw.target
    )
    return Dataset(train_x, train_y, test_x, test_y, 10, (0.3053,), (0.3760,))


def fashion_mnist(folder: str = "") -> Dataset:
    """Fashion-MNIST, 60,000 + 10,000 images 28x28x1, from IDX .gz files or from tfds."""
    moments = (0.2860,), (0.3530,)
    if folder and not Path(folder).is_dir():
        raise MissingError(
            f"No folder {folder}; install Debian's package dataset-fashion-mnist or set --config.data.folder."
        )
    if not list(Path(folder or "/nowhere").glob("*-ubyte.gz")):
        return _from_tfds("fashion_mnist", folder, "label", 10, *moments)
    parts = [
        read_idx(Path(folder) / f"{split}-{kind}-ubyte.gz")
        for split in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    train_x, train_y, test_x, test_y = parts
    for images, labels in ((train_x, train_y), (test_x, test_y)):
        if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max(initial=0) > 9:
            raise InputError(
                f"{folder} holds images of shape {list(images.shape)} with labels of shape {list(labels.shape)} up to "
                f"{labels.max(initial=0)}, which is not Fashion-MNIST; fetch it again."
            )
    return Dataset(
        train_x[..., None], train_y.astype(np.int32), test_x[..., None], test_y.astype(np.int32), 10, *moments
    )


def cifar10(folder: str = "") -> Dataset:
    """CIFAR-10 through tfds: 50,000 + 10,000 images 32x32x3."""
    return _from_tfds("cifar10", folder, "label", 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def cifar100(folder: str = "") -> Dataset:
    """CIFAR-100 (fine labels) through tfds: 50,000 + 10,000 images 32x32x3."""
    return _from_tfds("cifar100", folder, "label", 100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))


def fashion_colour(folder: str = "") -> Dataset:
    """Fashion-MNIST in colour on patterned grounds, 60,000 + 10,000 images 32x32x3, made on the fly."""
    items = fashion_mnist(folder)
    train, test = (coloured.make(images, seed) for seed, images in enumerate((items.train_images, items.test_images)))
    moments = (0.3626, 0.3639, 0.3628), (0.2574, 0.2583, 0.2580)
    return Dataset(train, items.train_labels, test, items.test_labels, items.classes, *moments)


def scattered(folder: str = "") -> Dataset:
    """Scenes 64x64x1 of digits, or of Fashion-MNIST where `folder` holds it; 4,500 to train and 500 to test.

    The items of the two splits are those of the two splits of their set. Class 0 is the ground.
    """
    items = fashion_mnist(folder) if folder else digits()
    step = 1 if folder else 2  # digits are doubled; their eight pixels are what is to be scaled
    train, test = (
        scenes.make(images[:, ::step, ::step], labels, SCENES[split], SCENE_SIZE, seed)
        for seed, (split, images, labels) in enumerate(
            (("train", items.train_images, items.train_labels), ("test", items.test_images, items.test_labels))
        )
    )
    names = ("ground", *(items.names or map(str, range(items.classes))))
    mean, std = ((round(float(moment), 4),) for moment in (train[0].mean() / 255, train[0].std() / 255))
    return Dataset(*train, *test, items.classes + 1, mean, std, names)


def indoor(folder: str = "") -> Dataset:
    """NYUv2 with 13 classes through tfds: 795 + 654 images 256x341x3, and masks of their pixels."""
    from ssdkd_jax.data import nyuv2  # which tfds then knows

    read = _from_tfds("nyuv2", folder, "mask", len(nyuv2.NAMES), (0.5,) * 3, (0.5,) * 3)
    train, test = (labels[..., 0].astype(np.uint8) for labels in (read.train_labels, read.test_labels))
    return read._replace(train_labels=train, test_labels=test, names=nyuv2.NAMES)


_LOADERS = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "fashion_colour": fashion_colour,
    "scenes": scattered,
    "nyuv2": indoor,
}


def read_idx(path: Path) -> np.ndarray:
    """A gzipped IDX file of unsigned bytes, the format of MNIST.

    Raises:
        FileNotFoundError: where it is missing.
        ValueError: where its header or length is not that of an IDX byte array; no more is unpacked than the header
            says, nor than `IDX_BYTES`.
    """
    if not path.is_file():
        raise MissingError(f"Missing {path}; all four IDX .gz files of Fashion-MNIST belong in that folder.")
    try:
        with gzip.open(path) as file:
            *magic, axes = file.read(4)
            if magic != [0, 0, 8] or not 1 <= axes <= IDX_AXES:
                raise InputError(f"a header of {[*magic, axes]}")
            shape = struct.unpack(f">{axes}I", file.read(4 * axes))
            if (size := math.prod(shape)) > IDX_BYTES:
                raise InputError(f"{size} bytes by its header, more than {IDX_BYTES}")
            content = file.read(size + 1)
        return np.frombuffer(content, np.uint8).reshape(shape)
    except (OSError, EOFError, struct.error, ValueError, zlib.error) as error:
        raise InputError(f"{path} is not a whole gzipped IDX file of bytes ({error}); fetch it again.") from error


def _from_tfds(name: str, folder: str, label: str, classes: int, mean: tuple, std: tuple) -> Dataset:
    """Read a prepared tfds set (array_record) without TensorFlow."""
    with needs("data"):
        importlib.import_module("array_record.python")  # tfds does so too, once it is asked for rows
        import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=folder or None, file_format="array_record")
        splits = [builder.as_data_source(split) for split in ("train", "test")]
    except Exception as error:
        raise MissingError(
            f"tfds has no prepared '{name}' in {folder or 'its data directory'}; run once: "
            f"python experiments/prepare_data.py --name={name} ({type(error).__name__})."
        ) from error
    arrays = []
    for source in splits:
        rows = [(row["image"], row[label]) for row in source]
        arrays += [np.stack([x for x, _ in rows]), np.asarray([y for _, y in rows], np.int32)]
    return Dataset(*arrays, classes, mean, std)
