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


def launch() -> None:
    """Define the flags, parse them, and run."""
    flags.DEFINE_string("checkpoint", None, "Folder of the saved network.")
    flags.DEFINE_string("model", None, "Its name, 'package.module:Class', where it is one of your own.")
    flags.DEFINE_string("teacher", None, "Folder of the saved teacher that it is compared with.")
    flags.DEFINE_string("teacher_model", None, "As --model, of the teacher.")
    flags.DEFINE_string("images", None, "Folder of images, in folders by class or not.")
    shared.launch(main, ("checkpoint",), documented=sys.modules[__name__])


def main() -> None:
    """Evaluate, and print one JSON object."""
    if bool(flags.FLAGS.images) == bool(shared.CONFIG.value) or bool(flags.FLAGS.images) != bool(flags.FLAGS.teacher):
        raise InputError("What to evaluate on is not clear; give --config, or --teacher and --images.")
    print(json.dumps(on_folder() if flags.FLAGS.images else on_data()))


def on_data() -> dict:
    """Scores on the test images of a config's data set."""
    config = shared.config()
    dataset = shared.dataset(config)
    if dataset is None:
        raise InputError("data.name = 'none' has no test images; name a data set, or give --teacher and --images.")
    return evaluation.evaluate_saved(config, dataset, flags.FLAGS.checkpoint, flags.FLAGS.model)


def on_folder() -> dict:
    """Agreement with the teacher on the images of a folder."""
    teacher = saved.load(flags.FLAGS.teacher, flags.FLAGS.teacher_model)
    images, labels = comparison.read_images(flags.FLAGS.images, teacher.image_shape)
    return comparison.compare(teacher, saved.load(flags.FLAGS.checkpoint, flags.FLAGS.model), images, labels)
