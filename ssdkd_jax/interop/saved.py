"""Networks on disk: variables, and a note that says how to run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax

from ssdkd_jax import models
from ssdkd_jax.engine import checkpoint
from ssdkd_jax.errors import InputError, MissingError
from ssdkd_jax.types import Array, Inputs, Network, Variables


class Saved(NamedTuple):
    """A trained classifier: call it with images [B, H, W, D] in [0, 1] to get logits [B, C], of pixels [B, H, W, C].

    Attributes:
        network: its functions.
        variables: its weights.
        note: model, classes, image_shape, mean, std, and whatever was saved with them.
    """

    network: Network
    variables: Variables
    note: dict[str, Any]

    def __call__(self, images: Array) -> Array:
        return jax.jit(self.network.apply)(self.variables, images)


def note(model: str, inputs: Inputs, **scores: float) -> dict[str, Any]:
    """What is saved beside the weights of `model`."""
    return {
        "model": model,
        "classes": inputs.classes,
        "image_shape": list(inputs.image_shape),
        "mean": list(inputs.mean),
        "std": list(inputs.std),
        **scores,
    }


def save(folder: str | Path, variables: Variables, note: dict[str, Any]) -> None:
    """Save a zoo model.

    Args:
        note: at least 'model', 'classes', 'image_shape', 'mean', 'std'.
    """
    checkpoint.save(folder, 0, dict(variables), note, keep=1)


def load(folder: str | Path, model: str | None = None, compute: str = "float32") -> Saved:
    """The model saved in `folder`.

    Args:
        model: its name, needed for a model of one's own: a name that would import code is never
            taken from the folder.
        compute: what its layers compute in, see `models.bind`.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: where it is damaged or its arrays are not those of the model that it names.
    """
    path = checkpoint.newest(folder)
    if path is None:
        raise MissingError(f"No saved model in '{folder}'; train one with experiments/train_teacher.py.")
    try:
        note = checkpoint.verify(path)
    except checkpoint.Damaged as error:
        raise InputError(f"The model in '{folder}' is damaged; save it again. {error}") from error
    if ":" in note["model"] and model != note["model"]:
        raise InputError(f"'{folder}' holds the model '{note['model']}', not of this package; name it in the call.")
    module = models.by_name(model or note["model"], note["classes"])
    network = models.bind(module, note["image_shape"], note["mean"], note["std"], compute=compute)
    _, variables, _ = checkpoint.restore(folder, jax.eval_shape(network.init, jax.random.key(0)))
    return Saved(network, variables, note)


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
