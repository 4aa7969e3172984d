"""Trained classifiers, and how they lie on disk: variables, and a note that says how to run them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import nnx

from ssdkd_jax import models
from ssdkd_jax.engine import checkpoint, quiet
from ssdkd_jax.errors import InputError, MissingError
from ssdkd_jax.interop import export, nnx_module, notes
from ssdkd_jax.interop.images import as_float
from ssdkd_jax.interop.notes import make as note
from ssdkd_jax.models import shares
from ssdkd_jax.types import Array, Inputs, Network, Variables

__all__ = ["Classifier", "load", "load_for", "note", "save"]

quiet.orbax()
ANSWERS, MANY, CLOSE = "answers", 10, 0.05  # of a saved network's note: logits, how many, and how near they stay


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A trained classifier: call it with images to get logits [B, C], of pixels [B, H, W, C].

    Images [B, H, W, D] are uint8, or floats in [0, 1]; others are refused, see `images.as_float`.

    Attributes:
        network: its functions.
        variables: its weights.
        inputs: image shape, classes, mean and std; the normalisation is inside `network`.
        name: by which sentences call it; one of `models.NAMES`, or another origin's.
        note: whatever was saved with it.
    """

    network: Network
    variables: Variables
    inputs: Inputs
    name: str
    note: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, images: Array) -> Array:
        return jax.jit(self.network.apply)(self.variables, as_float(images, self.takes))

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image_shape))
        return f"{type(self).__name__}({self.name}, {shape} -> {self.classes} classes, {self.parameters:,} parameters)"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, D)."""
        return self.inputs.image_shape

    @property
    def classes(self) -> int:
        """C."""
        return self.inputs.classes

    @property
    def mean(self) -> Sequence[float]:
        """Of its normalisation, a number per channel or one for all."""
        return self.inputs.mean

    @property
    def std(self) -> Sequence[float]:
        """Likewise."""
        return self.inputs.std

    @property
    def parameters(self) -> int:
        """How many trainable numbers it has."""
        return models.parameter_count(self.variables)

    @cached_property
    def takes(self) -> tuple[int | None, int | None, int]:
        """(H, W, D) of its images; H and W are None where it labels pixels, of images of any size."""
        image = jax.ShapeDtypeStruct((1, *self.image_shape), "float32")
        dense = jax.eval_shape(self.network.apply, self.variables, image).ndim > 2
        return (None, None, self.image_shape[-1]) if dense else self.image_shape

    def save(self, folder: str | Path) -> None:
        """Save it where `load` finds it.

        Raises:
            InputError: for a network that no name makes anew, such as a bare function.
        """
        if ":" not in self.name:
            try:
                models.by_name(shares.base(self.name), self.classes)
            except InputError as error:
                raise InputError(
                    f"The network '{self.name}' is no flax module, so its arrays alone do not make it anew; make it "
                    "again from what it was made of, or export it as .stablehlo."
                ) from error
        found = note(self.name, self.inputs, meant=True)
        if ":" in self.name:
            found[ANSWERS] = _answers(self.network, self.variables, self.inputs)
        known = {name: value for name, value in self.note.items() if name not in found}
        save(folder, jax.tree.map(np.asarray, dict(self.variables)), {**found, **known})

    def export(self, path: str | Path, images: str = "uint8") -> str:
        """Write it as a file for other tools, .stablehlo, or PyTorch's .pth, .pt and .safetensors; say what it takes.

        Args:
            path: its ending chooses the format.
            images: what a .stablehlo file takes, 'uint8' in [0, 255] or 'float32' in [0, 1].

        Raises:
            InputError: for another ending, or a network of which PyTorch has no twin.
        """
        return export.write(path, self.name, self.network, self.variables, self.inputs, images)


def save(folder: str | Path, variables: Variables, note: dict[str, Any]) -> None:
    """Save a zoo model.

    Args:
        note: at least 'model', 'classes', 'image_shape', 'mean', 'std'.

    Raises:
        ValueError: for a note that `load` would refuse.
    """
    notes.check(note, "The note")
    checkpoint.save(folder, 0, dict(variables), note, keep=1)


def keep(classifier: Classifier, folder: Path) -> None:
    """Save it in `folder`; one that came as a PyTorch module as a state dict beside it, `folder`.safetensors."""
    if classifier.network.as_torch:
        classifier.export(folder.with_suffix(".safetensors"))
    else:
        classifier.save(folder)


def load(folder: str | Path, model: str | nn.Module | nnx.Module | None = None, compute: str = "float32") -> Classifier:
    """The model saved in `folder`.

    Args:
        model: needed for a model of one's own: the flax module itself, or its name where it is made as
            `Class(classes=C)`. A name that would import code is never taken from the folder.
        compute: what its layers compute in, see `models.bind`.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: where it is damaged, is of another model than `model`, or has arrays or a note that no such
            model has.
    """
    missing = MissingError(f"No saved model in '{folder}'; name one that a run, `ssdkd import` or `save` left.")
    path = checkpoint.newest(folder)
    if path is None:
        raise missing
    try:
        note = checkpoint.verify(path)
    except checkpoint.Damaged as error:
        raise InputError(f"The model in '{folder}' is damaged; save it again. {error}") from error
    notes.check(note, f"The note in '{folder}'")
    if model is None or isinstance(model, str):
        _check_name(folder, note["model"], model)
    inputs = Inputs(tuple(note["image_shape"]), note["classes"], tuple(note["mean"]), tuple(note["std"]))
    if isinstance(model, nnx.Module):
        network, _ = nnx_module.network(model, inputs.image_shape, inputs.mean, inputs.std, compute=compute)
    else:
        module = model if isinstance(model, nn.Module) else None
        network = shares.named(note["model"], inputs, None, compute, module)
    restored = checkpoint.restore(folder, jax.eval_shape(network.init, jax.random.key(0)))
    if restored is None:  # deleted in the meantime
        raise missing
    variables = restored[1]
    if ":" in note["model"] and ANSWERS in note:
        _check_answers(folder, note[ANSWERS], _answers(network, variables, inputs))
    return Classifier(network, variables, inputs, note["model"], note)


def _answers(network: Network, variables: Variables, inputs: Inputs) -> list[float]:
    """A few of the logits of an image that is always the same."""
    image = np.random.default_rng(0).random((1, *inputs.image_shape), np.float32)
    return [float(x) for x in np.ravel(jax.jit(network.apply)(variables, image))[:MANY]]


def _check_answers(folder: str | Path, saved: Sequence[float], found: Sequence[float]) -> None:
    """Raise InputError where a network of somebody's own is another function of its weights than when it was saved."""
    if np.shape(saved) != np.shape(found) or np.abs(np.subtract(saved, found)).max() > CLOSE * np.abs(saved).max():
        raise InputError(
            f"The network handed over for '{folder}' answers otherwise than the one that was saved ({found[0]:.4g} "
            f"instead of {saved[0]:.4g}); hand over the same, with the same settings."
        )


def _check_name(folder: str | Path, found: str, named: str | None) -> None:
    """Raise ValueError where the model is not that which was `named`, or would import code and was not named."""
    if named is None and ":" in found:
        raise InputError(
            f"'{folder}' holds the model '{found}', not of this package; name it in the call (--model), or "
            "give the flax module itself."
        )
    if named not in (None, found, shares.base(found)):
        raise InputError(
            f"'{folder}' holds a '{found}', not the '{named}' that was named; name '{found}' (teacher.model, --model), "
            "or give another folder."
        )


def load_for(inputs: Inputs, folder: str | Path, model: str | None = None, compute: str = "float32") -> Classifier:
    """The model saved in `folder`, which must take and answer what `inputs` says; its normalisation is its own.

    Raises:
        FileNotFoundError, ValueError: as `load`; or where it is of another class count or image shape.
    """
    found = load(folder, model, compute)
    if found.classes != inputs.classes:
        raise InputError(
            f"The model in {folder} knows {found.classes} classes, but the data have {inputs.classes}; "
            "use a model of the same classes."
        )
    if found.image_shape != tuple(inputs.image_shape):
        raise InputError(
            f"The model in {folder} takes images of shape {list(found.image_shape)}, but the data have "
            f"{list(inputs.image_shape)}; use a model of the same image size."
        )
    return found
