"""Networks and a data set: what they take of it, and their scores on its test images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from ssdkd_jax import build
from ssdkd_jax.engine import evaluation, parallel
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import saved
from ssdkd_jax.types import Inputs, Network, Variables

if TYPE_CHECKING:
    from ssdkd_jax.data import Dataset

BATCH, PIXELS = 500, 512 * 1024  # evaluated at once, at most


def inputs(config: ConfigDict, dataset: Dataset) -> Inputs:
    """What a network takes of the data set, cropped as the config asks.

    Raises:
        ValueError: where the images are smaller than that.
    """
    shape, crop = dataset.train_images.shape[1:], config.data.crop
    if crop > min(shape[:2]):
        raise InputError(f"data.crop = {crop} is more than the images have ({shape[0]}x{shape[1]}); make it smaller.")
    image_shape = (crop, crop, shape[2]) if crop else shape
    return Inputs(image_shape, dataset.classes, dataset.mean, dataset.std)


def evaluator(config: ConfigDict, network: Network, dataset: Dataset) -> Callable[[Variables], dict[str, float]]:
    """variables on the devices -> scores on the test images."""
    task = build.task(config, dataset.classes)
    height, width = dataset.test_images.shape[1:3]
    batch = min(BATCH, max(1, PIXELS // (height * width)))
    return evaluation.make(network, task, dataset.test_images, dataset.test_labels, batch)


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
    return {"model": found.note["model"], "images": len(dataset.test_images), **scores}
