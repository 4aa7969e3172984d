"""A saved network on real images: its scores, or how often it agrees with its teacher.

    ssdkd evaluate --checkpoint=runs/digits/student --config=configs/digits.py
    ssdkd evaluate --checkpoint=runs/mine/student --teacher=teachers/mine --images=FOLDER

With --config, scores on the test images of its data set. With --images, agreement with the teacher on the images of a
folder; where each lies in a folder named by the number of its class, the accuracy of both, too.
"""

from __future__ import annotations

import json
import sys

from absl import flags

from ssdkd_jax.api import comparison
from ssdkd_jax.cli import launch as shared
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import saved
from ssdkd_jax.run import evaluation

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Folder of the saved network.")
MODEL = flags.DEFINE_string("model", None, "Its name, 'package.module:Class', where it is one of your own.")
TEACHER = flags.DEFINE_string("teacher", None, "Folder of the saved teacher that it is compared with.")
TEACHER_MODEL = flags.DEFINE_string("teacher_model", None, "As --model, of the teacher.")
IMAGES = flags.DEFINE_string("images", None, "Folder of images, in folders by class or not.")


def launch() -> None:
    """Parse the flags and run."""
    shared.launch(main, ("checkpoint",), documented=sys.modules[__name__])


def main() -> None:
    """Evaluate, and print one JSON object."""
    if bool(IMAGES.value) == bool(shared.CONFIG.value) or bool(IMAGES.value) != bool(TEACHER.value):
        raise InputError("What to evaluate on is not clear; give --config, or --teacher and --images.")
    print(json.dumps(on_folder() if IMAGES.value else on_data()))


def on_data() -> dict:
    """Scores on the test images of a config's data set."""
    config = shared.config()
    dataset = shared.dataset(config)
    if dataset is None:
        raise InputError("data.name = 'none' has no test images; name a data set, or give --teacher and --images.")
    return evaluation.evaluate_saved(config, dataset, CHECKPOINT.value, MODEL.value)


def on_folder() -> dict:
    """Agreement with the teacher on the images of a folder."""
    teacher = saved.load(TEACHER.value, TEACHER_MODEL.value)
    images, labels = comparison.read_images(IMAGES.value, teacher.image_shape)
    return comparison.compare(teacher, saved.load(CHECKPOINT.value, MODEL.value), images, labels)
