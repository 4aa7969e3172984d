"""At the size of the quickstart: a teacher of each kind whose layers are seen, without data, on several seeds.

    python experiments/kinds.py --workdir=runs/kinds --seeds=0,1,2

Five ways in: a saved network and a PyTorch file of the zoo's wrn16_1; a network of another layout as a linen module,
an NNX module and a PyTorch module. The student, wrn10_1, has less than half their parameters. Started again, it goes on
with the runs that are missing. Writes kinds.json into the workdir.
"""

from __future__ import annotations

from ssdkd_jax.engine import environment

environment.prepare()

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import judged
import numpy as np
import optax
from absl import app, flags
from flax import nnx

import ssdkd_jax
from ssdkd_jax import config, data, models
from ssdkd_jax.engine import files
from ssdkd_jax.interop import torch_files, torch_layout
from ssdkd_jax.report import machine
from ssdkd_jax.run import teacher as teachers
from ssdkd_jax.types import Array, Variables

WORKDIR = flags.DEFINE_string("workdir", "runs/kinds", "Folder of the teachers and of the table.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the runs.")
NORMAL: dict[str, Any] = {"image_shape": (16, 16, 1), "mean": (0.3053,), "std": (0.376,)}
STUDENT = "wrn10_1"
LAYERS = ("conv1", "norm1", "conv2", "norm2", "dense", "head")


class Net(nn.Module):
    """Two convolutions with BatchNorm, two dense layers; flattened channels first, as PyTorch does."""

    @nn.compact
    def __call__(self, images: Array, train: bool) -> Array:
        x = images
        for number, width in ((1, 32), (2, 64)):
            x = nn.Conv(width, (3, 3), padding=((1, 1), (1, 1)), name=f"conv{number}")(x)
            x = nn.relu(nn.BatchNorm(not train, momentum=0.9, name=f"norm{number}")(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(160, name="dense")(x.transpose(0, 3, 1, 2).reshape(len(x), -1)))
        return nn.Dense(10, name="head")(x)


class NnxNet(nnx.Module):
    """The same as an NNX module."""

    def __init__(self, rngs: nnx.Rngs):
        padding = ((1, 1), (1, 1))
        self.conv1, self.norm1 = nnx.Conv(1, 32, (3, 3), padding=padding, rngs=rngs), nnx.BatchNorm(32, rngs=rngs)
        self.conv2, self.norm2 = nnx.Conv(32, 64, (3, 3), padding=padding, rngs=rngs), nnx.BatchNorm(64, rngs=rngs)
        self.dense, self.head = nnx.Linear(1024, 160, rngs=rngs), nnx.Linear(160, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            x = nn.max_pool(nnx.relu(norm(conv(x))), (2, 2), (2, 2))
        x = nnx.relu(self.dense(x.transpose(0, 3, 1, 2).reshape(len(x), -1)))
        return self.head(x)


def trained(images: np.ndarray, labels: np.ndarray) -> Variables:
    """Those of a `Net` after 12 passes over real digits."""
    network = models.bind(Net(), *NORMAL.values())
    variables, tx = jax.jit(network.init)(jax.random.key(0)), optax.adam(1e-3)

    @jax.jit
    def step(variables: Variables, opt_state: Any, x: Array, y: Array) -> tuple[Variables, Any]:
        def loss(params: Any) -> tuple[Array, Variables]:
            logits, updated = network.train({**variables, "params": params}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), updated

        grads, updated = jax.grad(loss, has_aux=True)(variables["params"])
        updates, opt_state = tx.update(grads, opt_state)
        return {**updated, "params": optax.apply_updates(variables["params"], updates)}, opt_state

    opt_state = tx.init(variables["params"])
    for at in np.random.default_rng(0).integers(0, len(images), (240, 64)):
        variables, opt_state = step(variables, opt_state, images[at] / np.float32(255), labels[at])
    return variables


def from_nnx(weights: Variables) -> ssdkd_jax.Teacher:
    """The weights of a `Net` in an `NnxNet`."""
    module = NnxNet(nnx.Rngs(0))
    for collection in weights.values():
        for layer, leaves in collection.items():
            for name, value in leaves.items():
                getattr(getattr(module, layer), name)[...] = value
    return ssdkd_jax.Teacher.from_nnx(module, **NORMAL)


def from_torch_module(weights: Variables, path: Path) -> ssdkd_jax.Teacher:
    """The weights of a `Net` in a PyTorch module, by way of a file."""
    import torch
    from torch import nn as t

    module = t.Sequential(
        *(t.Conv2d(1, 32, 3, padding=1), t.BatchNorm2d(32), t.ReLU(), t.MaxPool2d(2)),
        *(t.Conv2d(32, 64, 3, padding=1), t.BatchNorm2d(64), t.ReLU(), t.MaxPool2d(2), t.Flatten()),
        *(t.Linear(1024, 160), t.ReLU(), t.Linear(160, 10)),
    )
    layout = list(zip((f"^{layer}$" for layer in LAYERS), ("0", "1", "4", "5", "9", "11"), strict=True))
    torch_files.write(path, torch_layout.to_torch(weights, layout))
    module.load_state_dict(torch.load(path, weights_only=True))
    return ssdkd_jax.Teacher.from_torch_module(module, **NORMAL)


def kinds(workdir: Path, digits: data.Dataset) -> dict[str, Callable[[], ssdkd_jax.Teacher]]:
    """Ways to a teacher, by name."""
    settings, path = config.default(), workdir / "wrn16_1.safetensors"
    settings.teacher.update(model="wrn16_1", epochs=7, batch=64, shift=1)
    teachers.train(settings, digits, workdir)
    ssdkd_jax.load(workdir / "teacher").export(path)
    weights = trained(digits.train_images, digits.train_labels)
    mean, std = (list(NORMAL[name]) for name in ("mean", "std"))
    return {
        "saved": lambda: ssdkd_jax.Teacher.load(workdir / "teacher"),
        "PyTorch file": lambda: ssdkd_jax.Teacher.from_torch(path, mean=mean, std=std, image_size=16),
        "PyTorch module": lambda: from_torch_module(weights, workdir / "net.pth"),
        "linen": lambda: ssdkd_jax.Teacher.from_linen(Net(), weights, **NORMAL),
        "NNX": lambda: from_nnx(weights),
    }


def main(_: list[str]) -> None:
    """Make the runs that are missing, and print each as it ends."""
    workdir, digits = Path(WORKDIR.value), data.load("digits")
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "kinds.json"
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    done = {(one["kind"], one["seed"]) for one in runs}
    made = kinds(workdir, digits)
    for seed in map(int, SEEDS.value):
        for kind, make in made.items():
            if (kind, seed) not in done:
                runs.append({"kind": kind, "seed": seed, **judged.run(make(), STUDENT, digits, seed=seed)})
                print(json.dumps(runs[-1]), flush=True)
                files.write_json(path, {"runs": runs, "versions": machine.versions()})


if __name__ == "__main__":
    app.run(main)
