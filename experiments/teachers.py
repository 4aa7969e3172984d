"""Twelve teachers of Fashion-MNIST, six of its grey images and six of it in colour, trained once for other scripts.

    python experiments/teachers.py --workdir=runs/teachers [--only=grey_cnn,colour_vgg8] [--seen=60000]

Four serve for tuning: grey_wrn16_2, grey_cnn, colour_resnet18 and colour_vgg8. The other eight are looked at once, when
everything is decided: they tell whether what was found on the four holds for others.

Each lands in WORKDIR/NAME/teacher, where `load` of this file, or `ssdkd_jax.Teacher.load`, finds it; NAME.json beside
it holds its accuracy, seconds, versions and command. Started again, the script goes on with what is missing.
"""

from __future__ import annotations

from ssdkd_jax.engine import environment

environment.prepare()

import functools
import json
import math
import shlex
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags
from ml_collections import ConfigDict

import ssdkd_jax
from ssdkd_jax import config, data, settings
from ssdkd_jax.engine import files
from ssdkd_jax.errors import InputError, MissingError
from ssdkd_jax.report import machine
from ssdkd_jax.run import teacher

WORKDIR = flags.DEFINE_string("workdir", "runs/teachers", "Folder of the teachers, and of what is made from them.")
ONLY = flags.DEFINE_list("only", [], "Names of some of the teachers; none: all.")
SEEN = flags.DEFINE_integer("seen", None, "Images that a teacher sees in training, instead of its own number.", 128)
FOLDER = flags.DEFINE_string("folder", "/usr/share/datasets/fashion-mnist", "Of Fashion-MNIST's IDX files.")
BATCH = 128


class Kind(NamedTuple):
    """How a teacher is made.

    Attributes:
        dataset: of `data.load`.
        model: of the zoo, or of `networks`.
        seen: images that it sees, each as often as the others.
        lr: highest learning rate; less without BatchNorm.
        tuning: whether it serves for tuning.
    """

    dataset: str
    model: str
    seen: int
    lr: float = 0.1
    tuning: bool = False


GREY, COLOUR = "fashion_mnist", "fashion_colour"
TEACHERS = {
    "grey_wrn16_2": Kind(GREY, "wrn16_2", 120_000, tuning=True),
    "grey_wrn40_2": Kind(GREY, "wrn40_2", 60_000),
    "grey_resnet34": Kind(GREY, "networks:resnet34_narrow", 120_000),
    "grey_vgg11": Kind(GREY, "vgg11", 60_000),
    "grey_vgg8_plain": Kind(GREY, "networks:vgg8_plain", 120_000, lr=0.03),
    "grey_cnn": Kind(GREY, "networks:cnn", 300_000, lr=0.05, tuning=True),
    "colour_wrn16_2": Kind(COLOUR, "wrn16_2", 120_000),
    "colour_resnet34": Kind(COLOUR, "networks:resnet34_narrow", 120_000),
    "colour_resnet18": Kind(COLOUR, "networks:resnet18_narrow", 180_000, tuning=True),
    "colour_vgg11": Kind(COLOUR, "vgg11", 60_000),
    "colour_vgg8": Kind(COLOUR, "vgg8", 120_000, tuning=True),
    "colour_cnn": Kind(COLOUR, "networks:cnn", 300_000, lr=0.05),
}


def chosen() -> dict[str, Kind]:
    """The teachers that the command line asks for.

    Raises:
        InputError: for an unknown name, with the nearest.
    """
    return {name: settings.chosen(TEACHERS, "--only", name) for name in ONLY.value or TEACHERS}


@functools.cache
def dataset(name: str) -> data.Dataset:
    """The images of a kind; made once."""
    return data.load(name, FOLDER.value)


def load(workdir: Path, name: str) -> tuple[ssdkd_jax.Teacher, dict[str, Any]]:
    """A teacher that is there, and what its JSON tells.

    Raises:
        MissingError: where it is not there.
    """
    path = workdir / f"{name}.json"
    if not path.exists():
        raise MissingError(
            f"No teacher in {path}; run python experiments/teachers.py --workdir={workdir} --only={name}"
        )
    return ssdkd_jax.Teacher.load(workdir / name / "teacher", TEACHERS[name].model), json.loads(path.read_text())


def recipe(kind: Kind, epochs: int) -> ConfigDict:
    """The settings of its training: SGD, the rate rising and then falling as a cosine, mirrored and moved images."""
    made = config.default()
    made.data.update(name=kind.dataset, folder=FOLDER.value)
    made.teacher.update(model=kind.model, epochs=epochs, batch=BATCH, lr=kind.lr, flip=True, shift=2)
    return made


def train(workdir: Path, name: str, kind: Kind) -> dict[str, Any]:
    """Train a teacher, save it, and tell how it went.

    Raises:
        InputError: where it is there, but was made otherwise.
    """
    path = workdir / f"{name}.json"
    if path.exists():
        told = json.loads(path.read_text())
        if (then := Kind(*(told[field] for field in Kind._fields))) != kind:
            raise InputError(f"{path} tells of a {then}, not a {kind}; choose another --workdir.")
        return told
    images, start = dataset(kind.dataset), time.perf_counter()
    epochs = math.ceil(kind.seen / len(images.train_images))
    part = slice(kind.seen // epochs)
    some = images._replace(train_images=images.train_images[part], train_labels=images.train_labels[part])
    accuracy = teacher.train(recipe(kind, epochs), some, workdir / name)
    told = {
        **{"name": name, **kind._asdict(), "epochs": epochs, "accuracy": accuracy},
        **{"seconds": time.perf_counter() - start, "command": shlex.join(sys.argv), "versions": machine.versions()},
    }
    files.write_json(path, told)
    return told


def main(_: list[str]) -> None:
    """Train what is missing, and print a line of each."""
    workdir = Path(WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    for name, kind in chosen().items():
        told = train(workdir, name, kind._replace(seen=SEEN.value or kind.seen))
        print(f"{name}: {100 * told['accuracy']:.2f} % of the test images, {told['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    app.run(main)
