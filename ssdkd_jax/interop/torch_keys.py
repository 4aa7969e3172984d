"""What wrappers and tools leave on the keys of a PyTorch state dict, and torchvision's names of a ResNet.

DataParallel, torch.compile, AveragedModel and Lightning put a prefix on every key, in any order; AveragedModel and
profilers add counters that no model needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import torch_layout

Value = TypeVar("Value", bound=torch_layout.Tensor)
COUNTERS = ("n_averaged", "total_ops", "total_params")
COMPILED = "_orig_mod."  # of any module, also within another
WRAPPERS = ("module", "model")
TORCHVISION = ((r"^fc\.", "linear."), (r"\.downsample\.", ".shortcut."))


class Cleaned(NamedTuple, Generic[Value]):
    """A state dict under the keys of the model alone.

    Attributes:
        state: what is left.
        remarks: what was done to the keys, a sentence each.
    """

    state: dict[str, Value]
    remarks: tuple[str, ...]


def cleaned(state: Mapping[str, Value], wrappers: Sequence[str] = WRAPPERS) -> Cleaned[Value]:
    """Without counters, and without the names of wrappers that all keys begin with.

    Args:
        wrappers: these names; () takes away any that all keys have in common.

    Raises:
        ValueError: where nothing is left, or two keys become one.
    """
    kept = {key: value for key, value in state.items() if not _is_counter(key, value)}
    bare = {key.replace(COMPILED, ""): value for key, value in kept.items()}
    prefix = _common(bare, wrappers)
    if not bare or len(bare) != len(kept):
        raise InputError("The file holds no state dict of one model; save model.state_dict() and nothing else.")
    dropped = sorted({key.rpartition(".")[2] for key in state.keys() - kept.keys()})
    taken = [name for name in (prefix, COMPILED) if name and (name == prefix or bare.keys() != kept.keys())]
    remarks = [f"Counters that no model needs were dropped: {torch_layout.some(dropped)}."] * bool(dropped)
    remarks += [f"What a wrapper put before the keys was taken off ({', '.join(taken)})."] * bool(taken)
    return Cleaned({key[len(prefix) :]: value for key, value in bare.items()}, tuple(remarks))


def of_zoo(state: Mapping[str, Value]) -> Cleaned[Value]:
    """As `cleaned`, for a model of the zoo: whatever all keys begin with is a wrapper's, and torchvision's names do.

    Raises:
        ValueError: as `cleaned`; or for torchvision's ResNet of large images.
    """
    state, remarks = cleaned(state, ())
    if "layer1.0.conv1.weight" not in state:
        return Cleaned(state, remarks)
    if "conv1.weight" in state and tuple(state["conv1.weight"].shape[2:]) == (7, 7):
        raise InputError(
            "It is torchvision's ResNet for large images, with a 7x7 stem and max-pooling, where the zoo's has a 3x3 "
            "stem for small ones; write it as a linen module and map its keys with torch_layout.from_torch."
        )
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in TORCHVISION:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    if renamed.keys() != state.keys():
        remarks += (
            "torchvision's names were read as the zoo's (fc as linear, downsample as shortcut), whose ResNet has no "
            "max-pooling after the stem.",
        )
    return Cleaned(renamed, remarks)


def _is_counter(key: str, value: Value) -> bool:
    """Whether no layer reads it: a lone number too, but for BatchNorm's own, which PyTorch's layout has."""
    leaf = key.rpartition(".")[2]
    return leaf in COUNTERS or (tuple(value.shape) == () and leaf != torch_layout.COUNTER)


def _common(keys: Mapping[str, Value], wrappers: Sequence[str]) -> str:
    """The longest prefix of whole names, of `wrappers` if there are any, that all keys have."""
    prefix = ""
    for names in zip(*(key.split(".")[:-1] for key in keys), strict=False):
        if len(set(names)) > 1 or (wrappers and names[0] not in wrappers):
            break
        prefix += f"{names[0]}."
    return prefix
