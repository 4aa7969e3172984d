"""The note beside a saved network: written by us or by a stranger, and looked at before anything is made of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ssdkd_jax.errors import InputError
from ssdkd_jax.types import Inputs

CLASSES, SIDE, CHANNELS = 2**20, 2**14, 2**10  # at most
MEANS, STDS = (0.0, 1.0), (0.01, 1.0)
MEANT = "unusual_normalisation"


def make(model: str, inputs: Inputs, meant: bool = False, **scores: float) -> dict[str, Any]:
    """What is saved beside the weights of `model`.

    Args:
        meant: keep a normalisation that `check_normalisation` refuses, and mark it.

    Raises:
        ValueError: for such a normalisation that is not meant.
    """
    found = {
        "model": model,
        "classes": int(inputs.classes),
        "image_shape": list(map(int, inputs.image_shape)),
        "mean": list(map(float, inputs.mean)),
        "std": list(map(float, inputs.std)),
        **scores,
    }
    if meant and _unusual(inputs.mean, inputs.std):
        found[MEANT] = True
    check(found, "The note")
    return found


def check(note: Any, whose: str) -> None:
    """Raise ValueError, in one sentence, for a note that no network can be made of.

    Args:
        note: what a folder holds; of any type.
        whose: the start of the sentence.
    """
    note = note if isinstance(note, dict) else {}
    for field, (kind, fits) in _FIELDS.items():
        if not fits(note.get(field)):
            value = repr(note[field]) if field in note else "missing"
            value = value if len(value) <= 60 else f"{value[:60]}..."
            raise InputError(f"{whose} describes no network: its '{field}' is {value}; save it with {kind}.")
    check_normalisation(note["mean"], note["std"], note["image_shape"][-1], note.get(MEANT) is True)


def check_normalisation(mean: Sequence[float], std: Sequence[float], channels: int, meant: bool = False) -> None:
    """Raise ValueError unless images in [0, 1] of so many channels can have this mean and standard deviation.

    Args:
        mean, std: one value, or one per channel.
        meant: take any mean, and any standard deviation above 0.
    """
    numbers = [*mean, *std]
    if {len(mean), len(std)} - {1, channels} or not all(map(math.isfinite, numbers)) or min(std) <= 0:
        raise InputError(
            f"mean = {list(mean)} and std = {list(std)} do not normalise {channels} channels; give 1 or {channels} "
            "numbers each, with std above 0."
        )
    if not meant and (likely := _unusual(mean, std)):
        raise InputError(
            f"mean = {list(mean)} and std = {list(std)} are not of images in [0, 1], where a mean lies in [0, 1] and "
            f"a std in [0.01, 1]; {likely}, or say that it is meant (--{MEANT})."
        )


def _unusual(mean: Sequence[float], std: Sequence[float]) -> str:
    """What to do about a normalisation that images in [0, 1] hardly have; '' where they may."""
    if max(*mean, *std) > 1:
        return "if they are of images in [0, 255], divide them by 255"
    if min(std) < STDS[0]:
        return "if they were divided by 255 twice, multiply them by 255"
    return "give the mean itself, not its negative" if min(mean) < MEANS[0] else ""


def _is_name(value: str) -> bool:
    return 0 < len(value) <= 200 and value.isprintable()


def _whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31)


def _numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(_number, value))


def _shape(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_whole, value, (SIDE, SIDE, CHANNELS)))


_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "model": ("the name of a model", lambda value: isinstance(value, str) and _is_name(value)),
    "classes": (f"a whole number from 1 to {CLASSES}", lambda value: _whole(value, CLASSES)),
    "image_shape": (f"[height, width, channels] up to [{SIDE}, {SIDE}, {CHANNELS}]", _shape),
    "mean": ("a list of numbers", _numbers),
    "std": ("a list of numbers", _numbers),
}
