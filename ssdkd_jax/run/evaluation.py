"""Networks and a data set: what they take of it, and their scores on its test images."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ssdkd_jax import augment, build
from ssdkd_jax.engine import evaluation, parallel
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import notes, saved
from ssdkd_jax.run import foreign
from ssdkd_jax.types import Inputs, Network, Variables

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from ssdkd_jax.data import Dataset

log = logging.getLogger(__name__)
BATCH, PIXELS = 500, 512 * 1024  # evaluated at once, at most


def inputs(config: ConfigDict, dataset: Dataset) -> Inputs:
    """What a network takes of the data set, cropped as the config asks.

    Raises:
        ValueError: where the images are smaller than that; or as `check`.
    """
    check(dataset)
    shape, crop = dataset.train_images.shape[1:], config.data.crop
    if crop > min(shape[:2]):
        raise InputError(f"data.crop = {crop} is more than the images have ({shape[0]}x{shape[1]}); make it smaller.")
    image_shape = (crop, crop, shape[2]) if crop else shape
    return Inputs(image_shape, dataset.classes, dataset.mean, dataset.std)


def check(dataset: Dataset) -> None:
    """Raise ValueError, in one sentence, for images, labels or a normalisation that no `data.Dataset` has."""
    for split in ("train", "test"):
        images, labels = (np.asarray(getattr(dataset, f"{split}_{part}")) for part in ("images", "labels"))
        if images.dtype != np.uint8 or images.ndim != 4:
            raise InputError(
                f"dataset.{split}_images are {images.dtype} of shape {list(images.shape)}; give uint8 [M, H, W, D] in "
                "[0, 255]."
            )
        known = labels[labels != augment.UNLABELLED] if labels.ndim > 1 else labels
        fitting = labels.shape in (images.shape[:1], images.shape[:3]) and np.issubdtype(labels.dtype, np.integer)
        if not fitting or known.min(initial=0) < 0 or known.max(initial=0) >= dataset.classes:
            raise InputError(
                f"dataset.{split}_labels are {labels.dtype} of shape {list(labels.shape)}, for {len(images)} images; "
                f"give whole numbers from 0 to {dataset.classes - 1}, one an image or a pixel."
            )
    notes.check_normalisation(dataset.mean, dataset.std, dataset.train_images.shape[-1])


def evaluator(config: ConfigDict, network: Network, dataset: Dataset) -> Callable[[Variables], dict[str, float]]:
    """variables on the devices -> scores on the test images."""
    task = build.task(config, dataset.classes)
    return evaluation.make(network, task, dataset.test_images, dataset.test_labels, batch_of(dataset))


class Judge(NamedTuple):
    """By what the networks of a run are judged.

    Attributes:
        score: the name of the number that counts.
        scores: network -> (its variables on the devices -> scores); {} where there are no real images.
    """

    score: str
    scores: Callable[[Network], Callable[[Variables], dict[str, float]]]


def on(config: ConfigDict, dataset: Dataset) -> Judge:
    """By the test images of a data set."""
    return Judge(build.task(config, dataset.classes).score, lambda network: evaluator(config, network, dataset))


def without_data() -> Judge:
    """By what needs no real image, see `indicators`."""
    return Judge("agreement", lambda network: lambda variables: {})


def batch_of(dataset: Dataset) -> int:
    """How many images of a data set go through a network at once."""
    return at_once(*dataset.test_images.shape[1:3])


def at_once(height: int, width: int) -> int:
    """How many images of this size go through a network at once."""
    return min(BATCH, max(1, PIXELS // (height * width)))


def evaluate_saved(
    config: ConfigDict, dataset: Dataset, folder: str | Path, model: str | None = None
) -> dict[str, Any]:
    """Name, test images and scores of the model saved in `folder`.

    Args:
        model: its name, needed for a model of one's own.

    Raises:
        FileNotFoundError, ValueError: as `saved.load_for`.
    """
    found = saved.load_for(inputs(config, dataset), folder, model, config.compute)
    scores = evaluator(config, found.network, dataset)(parallel.to_devices(found.variables))
    score = build.task(config, dataset.classes).score
    if remark := foreign.remark(score, scores[score], found.note, dataset.classes):
        log.warning("Of the model in %s, taken as a teacher, %s.", folder, remark)
    return {"model": found.name, "images": len(dataset.test_images), **scores}
