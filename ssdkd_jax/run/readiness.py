"""Whether folder, data, models and config of a run fit together; asked before anything is trained."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssdkd_jax import build
from ssdkd_jax.engine import supervised
from ssdkd_jax.errors import Faults, gathered
from ssdkd_jax.models import conformance, shares
from ssdkd_jax.run import evaluation, yardstick
from ssdkd_jax.run import teacher as teachers
from ssdkd_jax.types import Inputs

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from ssdkd_jax.data import Dataset


def ready(config: ConfigDict, dataset: Dataset, workdir: Path) -> np.ndarray:
    """The images that the yardstick 'given' distils on, once the data set is found to be one for this run.

    Raises:
        InputError: where they are not, or do not fit a teacher that is still to be trained.
    """
    evaluation.check(dataset)
    images, faults = yardstick.given_images(config, dataset), Faults()
    with faults:
        conform(config, evaluation.inputs(config, dataset))
    if teachers.to_be_trained(config, workdir):
        of_model = Exception if faults.sentences else ()  # a model that does not serve may raise whatever it likes
        with contextlib.suppress(of_model), faults:
            fits(config, dataset, images)
    faults.report()
    return images


def conform(config: ConfigDict, inputs: Inputs) -> None:
    """Raise InputError, a line a fault, where a model of one's own does not serve; the zoo's are known to."""
    faults = Faults()
    student = shares.student_name(config.student.model, config.teacher.model)
    for name in sorted({config.teacher.model, student}):
        if ":" in name:
            network = build.network(name, inputs, None, config.compute)
            faults.extend(conformance.check(network, inputs.image_shape, name))
    faults.report()


def fits(config: ConfigDict, dataset: Dataset, images: np.ndarray) -> None:
    """Raise InputError, a line a fault, where a config does not fit the data or the teacher that it is to train."""
    teacher = teachers.untrained(config, dataset)
    gathered(
        lambda: supervised.check_batch(len(dataset.train_images), config.teacher.batch),
        lambda: build.job(config, teacher.inputs, teacher.network, teacher.variables, images=images),
    )
