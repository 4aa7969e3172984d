"""The teachers of a protocol, trained in PyTorch once, minutes each; no student is made of them here.

    python experiments/robustness_teachers.py --teachers=runs/robustness/teachers [--pairs=fashion_cnn,flags_cnn]

NAME.pth is the state dict of a teacher's network; NAME.json holds its test accuracy, size, data, recipe, seconds,
versions and command. Started again, the script goes on with what is missing. It prints the table of all that are there,
and writes it as teachers.md. The data need scikit-learn and Debian's packages dataset-fashion-mnist,
famfamfam-flag-png, fonts-dejavu, fonts-liberation, fonts-freefont-ttf, fonts-lato and fonts-open-sans.
"""

from __future__ import annotations

from ssdkd_jax.engine import environment

environment.prepare()

import json
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import protocol
import sets
import tables
import torch
import torch_networks
import torch_training
from absl import app, flags

import ssdkd_jax
from ssdkd_jax import settings
from ssdkd_jax.data import Dataset
from ssdkd_jax.engine import files
from ssdkd_jax.errors import InputError, MissingError
from ssdkd_jax.report import machine

FILE = Path(__file__).parent / "protocols" / "robustness.toml"
PROTOCOL = flags.DEFINE_string("protocol", str(FILE), "File of the pairs.")
TEACHERS = flags.DEFINE_string("teachers", "runs/robustness/teachers", "Folder of the teachers.")
PAIRS = flags.DEFINE_list("pairs", [], "Names of some of the pairs; none: all.")
THREADS = flags.DEFINE_integer("threads", None, "Of PyTorch; one is fastest where the processors are busy.", 1)
SEED = 0  # of every teacher


def chosen(pairs: Mapping[str, protocol.Pair]) -> list[protocol.Pair]:
    """Those of the pairs that the command line names, or all.

    Raises:
        InputError: for an unknown name, with the nearest.
    """
    return [settings.chosen(pairs, "--pairs", name) for name in PAIRS.value or pairs]


def module_for(pair: protocol.Pair) -> torch.nn.Module:
    """A teacher's network with new weights, of PyTorch's own generator.

    Raises:
        InputError: for an unknown network or data set, with the nearest.
    """
    options, found = dict(pair.network), sets.known(pair.data)
    network = settings.chosen(torch_networks.NETWORKS, "network", options.pop("name"))
    size, _, channels = found.shape
    return network(channels, found.classes, size, **options)


def made(pair: protocol.Pair) -> dict[str, Any]:
    """What a teacher's weights follow from, as JSON holds it."""
    return json.loads(json.dumps({"data": pair.data, "network": pair.network, "recipe": pair.recipe._asdict()}))


def told(folder: Path, pair: protocol.Pair) -> dict[str, Any] | None:
    """What is known of a teacher that is there; None where it is not.

    Raises:
        InputError: where it was made otherwise than the protocol says.
    """
    path = folder / f"{pair.name}.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    if any(found[field] != value for field, value in made(pair).items()):
        raise InputError(f"{path} tells of a teacher that was made otherwise; choose another --teachers.")
    return found


def train(folder: Path, pair: protocol.Pair) -> dict[str, Any]:
    """Train a teacher, save it, and tell how it went."""
    dataset, start = sets.load(pair.data), time.perf_counter()
    torch.manual_seed(SEED)
    module = torch_training.train(module_for(pair), dataset, pair.recipe, SEED)
    seconds = time.perf_counter() - start
    found = {
        **{"name": pair.name, **made(pair), "classes": dataset.classes, "seed": SEED},
        **{"shape": [int(side) for side in dataset.train_images.shape[1:]], "train_images": len(dataset.train_images)},
        "parameters": sum(weights.numel() for weights in module.parameters()),
        "norms": sum(isinstance(part, torch.nn.BatchNorm2d) for part in module.modules()),
        **accuracies(module, dataset, torch_training.normalisation(pair.recipe, dataset)),
        **{"seconds": seconds, "threads": torch.get_num_threads(), "command": shlex.join(sys.argv)},
        "versions": machine.versions() | {"torch": torch.__version__},
    }
    torch.save(module.state_dict(), folder / f"{pair.name}.pth")
    files.write_json(folder / f"{pair.name}.json", found)
    return found


def accuracies(module: torch.nn.Module, dataset: Dataset, normalise: torch_training.Normalised) -> dict[str, float]:
    """On the test images, and on as many of the training images."""
    images, labels, *test = dataset[:4]
    some = images[: len(test[0])], labels[: len(test[0])]
    return {
        name: torch_training.accuracy(module, *of, normalise)
        for name, of in (("train_accuracy", some), ("accuracy", test))
    }


def load(folder: Path, pair: protocol.Pair) -> ssdkd_jax.Teacher:
    """A teacher that is there.

    Raises:
        MissingError: where it is not.
        InputError: as `told`.
    """
    if told(folder, pair) is None:
        raise MissingError(f"No teacher {pair.name} in {folder}; run experiments/robustness_teachers.py first.")
    dataset = sets.load(pair.data)
    module = module_for(pair)
    module.load_state_dict(torch.load(folder / f"{pair.name}.pth", weights_only=True))
    normalise = torch_training.normalisation(pair.recipe, dataset)
    return ssdkd_jax.Teacher.from_torch_module(
        module.eval(),
        image_shape=dataset.train_images.shape[1:],
        **normalise._asdict(),
        unusual_normalisation=True,
    )


def table(teachers: list[dict[str, Any]]) -> str:
    """A row a teacher."""
    header = ("teacher", "network", "data", "parameters", "BatchNorms", "recipe", "seconds", "train %", "test %")

    def row(one: Mapping[str, Any]) -> list[str]:
        shape = "x".join(map(str, one["shape"]))
        usual = protocol.Recipe._field_defaults
        recipe = ", ".join(f"{name} {value}" for name, value in one["recipe"].items() if value != usual.get(name, ""))
        scores = (f"{100 * one[name]:.1f}" for name in ("train_accuracy", "accuracy"))
        data = f"{one['data']} {shape}, {one['classes']} classes"
        counts = f"{one['parameters']:,}", str(one["norms"]), recipe, f"{one['seconds']:.0f}"
        return [one["name"], one["network"]["name"], data, *counts, *scores]

    return tables.markdown(header, [row(one) for one in teachers])


def main(_: list[str]) -> None:
    """Train what is missing, and print a table of all."""
    folder, pairs = Path(TEACHERS.value), protocol.read(Path(PROTOCOL.value)).pairs
    folder.mkdir(parents=True, exist_ok=True)
    if THREADS.value:
        torch.set_num_threads(THREADS.value)
    for pair in chosen(pairs):
        if told(folder, pair) is None:
            found = train(folder, pair)
            print(f"{pair.name}: {100 * found['accuracy']:.2f} %, {found['seconds']:.0f} s", flush=True)
    text = table([found for pair in pairs.values() if (found := told(folder, pair))])
    files.write_text(folder / "teachers.md", text + "\n")
    print(text)


if __name__ == "__main__":
    app.run(main)
