"""Data that a teacher did not learn from: there its score, its student's and the yardstick's tell different things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ssdkd_jax import augment
from ssdkd_jax.types import Network, Variables

if TYPE_CHECKING:
    from ssdkd_jax.data import Dataset

FAR = 0.1  # below what the teacher was saved with; of the way from chance to all right


def remark(score: str, reached: float, note: Mapping[str, Any], classes: int) -> str:
    """Why the data set is hardly what the teacher was trained on, without a full stop; '' where it may be.

    Args:
        score: its name.
        reached: the teacher's, on the test images of the data set.
        note: of the saved teacher, with its score where it had one.
        classes: C, of the data set.
    """
    before, chance = note.get(score), 1 / classes
    if isinstance(before, float) and reached < before - FAR:
        why = f"it was saved with {before:.4f}"
    elif reached < chance + FAR * (1 - chance):
        why = f"chance is {chance:.4f}"
    else:
        return ""
    return (
        f"the teacher's {score} on these test images is {reached:.4f} where {why}, so they are hardly what it was "
        f"trained on: the {score} of teacher, student and real images then tell different things, and what a student "
        "has learnt of its teacher is how often the two agree"
    )


def told(
    score: str,
    reached: float,
    note: Mapping[str, Any],
    dataset: Dataset,
    networks: tuple[tuple[Network, Variables], tuple[Network, Variables]],
    batch: int,
) -> dict[str, Any]:
    """What a summary says of foreign data: `remark`, and how often teacher and student agree; {} of the teacher's own.

    Args:
        networks: teacher and student, with their variables.
        batch: images at once.
    """
    why = remark(score, reached, note, dataset.classes)
    return {"foreign": why, "test_agreement": agreement(dataset, *networks, batch)} if why else {}


def agreement(
    dataset: Dataset, teacher: tuple[Network, Variables], student: tuple[Network, Variables], batch: int
) -> float:
    """Share of the test images, or of their pixels, that both networks give the same class, in [0, 1]."""
    equal = []
    for start in range(0, len(dataset.test_images), batch):
        images = dataset.test_images[start : start + batch]
        equal.append(_classes(teacher, images) == _classes(student, images))
    return float(np.concatenate(equal).mean())


def _classes(classifier: tuple[Network, Variables], images: np.ndarray) -> np.ndarray:
    network, variables = classifier
    return np.asarray(jax.jit(network.apply)(variables, augment.to_float(jax.numpy.asarray(images))).argmax(-1))
