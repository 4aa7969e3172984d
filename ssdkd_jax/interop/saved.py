"""Networks on disk: variables, and a note that says how to run them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax

from ssdkd_jax import models
from ssdkd_jax.engine import checkpoint, quiet
from ssdkd_jax.errors import InputError, MissingError
from ssdkd_jax.interop import notes
from ssdkd_jax.interop.images import as_float
from ssdkd_jax.interop.notes import make as note
from ssdkd_jax.types import Array, Inputs, Network, Variables

__all__ = ["Saved", "load", "load_for", "note", "save"]

quiet.orbax()


@dataclasses.dataclass(frozen=True, eq=False)
class Saved:
    """A trained classifier: call it with images to get logits [B, C], of pixels [B, H, W, C].

    Images [B, H, W, D] are uint8, or floats in [0, 1]; others are refused, see `images.as_float`.

    Attributes:
        network: its functions.
        variables: its weights.
        note: model, classes, image_shape, mean, std, and whatever was saved with them.
        takes: (H, W, D) of its images; H and W are None where it labels pixels, of images of any size.
    """

    network: Network
    variables: Variables
    note: dict[str, Any]
    takes: tuple[int | None, int | None, int]

    def __call__(self, images: Array) -> Array:
        return jax.jit(self.network.apply)(self.variables, as_float(images, self.takes))


def save(folder: str | Path, variables: Variables, note: dict[str, Any]) -> None:
    """Save a zoo model.

    Args:
        note: at least 'model', 'classes', 'image_shape', 'mean', 'std'.

    Raises:
        ValueError: for a note that `load` would refuse.
    """
    notes.check(note, "The note")
    checkpoint.save(folder, 0, dict(variables), note, keep=1)


def load(folder: str | Path, model: str | None = None, compute: str = "float32") -> Saved:
    """The model saved in `folder`.

    Args:
        model: its name, needed for a model of one's own: a name that would import code is never
            taken from the folder.
        compute: what its layers compute in, see `models.bind`.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: where it is damaged, is of another model than `model`, or has arrays or a note that no such
            model has.
    """
    path = checkpoint.newest(folder)
    if path is None:
        raise MissingError(f"No saved model in '{folder}'; train one with experiments/train_teacher.py.")
    try:
        note = checkpoint.verify(path)
    except checkpoint.Damaged as error:
        raise InputError(f"The model in '{folder}' is damaged; save it again. {error}") from error
    notes.check(note, f"The note in '{folder}'")
    _check_name(folder, note["model"], model)
    shape = tuple(note["image_shape"])
    module = models.by_name(note["model"], note["classes"])
    network = models.bind(module, shape, note["mean"], note["std"], compute=compute)
    like = jax.eval_shape(network.init, jax.random.key(0))
    logits = jax.eval_shape(network.apply, like, jax.ShapeDtypeStruct((1, *shape), "float32"))
    _, variables, _ = checkpoint.restore(folder, like)
    return Saved(network, variables, note, shape if logits.ndim == 2 else (None, None, shape[-1]))


def _check_name(folder: str | Path, found: str, named: str | None) -> None:
    """Raise ValueError where the model is not that which was `named`, or would import code and was not named."""
    if named is None and ":" in found:
        raise InputError(f"'{folder}' holds the model '{found}', not of this package; name it in the call (--model).")
    if named not in (None, found):
        raise InputError(
            f"'{folder}' holds a '{found}', not the '{named}' that was named; name '{found}' (teacher.model, --model), "
            "or give another folder."
        )


def load_for(inputs: Inputs, folder: str | Path, model: str | None = None, compute: str = "float32") -> Saved:
    """The model saved in `folder`, which must take and answer what `inputs` says; its normalisation is its own.

    Raises:
        FileNotFoundError, ValueError: as `load`; or where it is of another class count or image shape.
    """
    found = load(folder, model, compute)
    if found.note["classes"] != inputs.classes:
        raise InputError(
            f"The model in {folder} knows {found.note['classes']} classes, but the data have {inputs.classes}; "
            "use a model of the same classes."
        )
    if tuple(found.note["image_shape"]) != tuple(inputs.image_shape):
        raise InputError(
            f"The model in {folder} takes images of shape {found.note['image_shape']}, but the data have "
            f"{list(inputs.image_shape)}; use a model of the same image size."
        )
    return found
