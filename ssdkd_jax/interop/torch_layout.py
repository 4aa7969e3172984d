"""PyTorch state dicts and linen variables: which key is which array, and how its axes are ordered.

A layout is a list of (pattern, replacement) pairs, applied by `re.sub` in that order to the dotted
path of a linen layer; out comes the name of the PyTorch module. 'layer1_0.conv1' becomes
'layer1.0.conv1' through (r"layer(\\d)_(\\d+)", r"layer\\1.\\2"). The arrays of a layer follow from
their linen names:

    params  kernel [*spatial, I, O] or [I, O]  <->  weight [O, I, *spatial] or [O, I]
    params  scale, bias                        <->  weight, bias
    batch_stats  mean, var                     <->  running_mean, running_var

and num_batches_tracked, which nothing here needs, is dropped on the way in and 0 on the way out.
A model that flattens its features before a linear layer does so in the order H, W, D here and
D, H, W in PyTorch: transpose inside the linen module, as the layout does not know of it.

The layouts of the zoo are those of the definitions of CMI, Fast-DFKD and NAYER: WRN of
Zagoruyko & Komodakis in polo5's port, ResNet of DAFL, VGG of RepDistiller, MobileNetV2 of torchvision.
Those of DeepLabV3 stand in `torch_deeplab`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import jax
import numpy as np

from ssdkd_jax.engine.trees import named_leaves
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import torch_deeplab
from ssdkd_jax.types import Variables

Layout = Sequence[tuple[str, str]]
Value = TypeVar("Value")
LAYOUTS: dict[str, Layout] = {
    "wrn": ((r"^block(\d)_layer(\d+)", r"block\1.layer.\2"),),
    "resnet": (
        (r"^layer(\d)_(\d+)", r"layer\1.\2"),
        (r"shortcut_conv$", "shortcut.0"),
        (r"shortcut_bn$", "shortcut.1"),
    ),
    "vgg": (
        (r"^block(\d)_conv0$", r"block\1.0"),
        (r"^block(\d)_bn0$", r"block\1.1"),
        (r"^block(\d)_conv1$", r"block\1.3"),
        (r"^block(\d)_bn1$", r"block\1.4"),
    ),
    "mobilenetv2": (
        (r"^stem$", "features.0.0"),
        (r"^stem_bn$", "features.0.1"),
        (r"^block1\.depthwise$", "features.1.conv.0.0"),
        (r"^block1\.depthwise_bn$", "features.1.conv.0.1"),
        (r"^block1\.project$", "features.1.conv.1"),
        (r"^block1\.project_bn$", "features.1.conv.2"),
        (r"^block(\d+)\.expand$", r"features.\1.conv.0.0"),
        (r"^block(\d+)\.expand_bn$", r"features.\1.conv.0.1"),
        (r"^block(\d+)\.depthwise$", r"features.\1.conv.1.0"),
        (r"^block(\d+)\.depthwise_bn$", r"features.\1.conv.1.1"),
        (r"^block(\d+)\.project$", r"features.\1.conv.2"),
        (r"^block(\d+)\.project_bn$", r"features.\1.conv.3"),
        (r"^head$", "features.18.0"),
        (r"^head_bn$", "features.18.1"),
        (r"^classifier$", "classifier.1"),
    ),
    **torch_deeplab.LAYOUTS,
}
LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
COUNTER = "num_batches_tracked"


class Tensor(Protocol):
    """What `from_torch` reads: an array, or anything that knows its shape and becomes one when asked."""

    @property
    def shape(self) -> Sequence[int]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray: ...


def of(model: str) -> Layout:
    """The layout of a model of the zoo.

    Raises:
        ValueError: for a model that is not of the zoo.
    """
    return of_family(model, LAYOUTS)


def of_family(model: str, families: Mapping[str, Value]) -> Value:
    """What is said of the longest prefix of the name `model`.

    Raises:
        ValueError: for a model that is not of the zoo.
    """
    if ":" not in model and (prefixes := [prefix for prefix in families if model.startswith(prefix)]):
        return families[max(prefixes, key=len)]
    raise InputError(f"No layout is known for the model '{model}'; pass one of your own to from_torch or to_torch.")


def keys(variables: Variables, layout: Layout) -> dict[str, str]:
    """The PyTorch key of every leaf, by its dotted linen path, in the order of `jax.tree.leaves`.

    Args:
        variables: arrays or their shapes.

    Raises:
        ValueError: for a leaf that PyTorch has no counterpart for, or two that get one key.
    """
    found: dict[str, str] = {}
    for path in named_leaves(variables):
        collection, *layers, leaf = path.split(".")
        if (collection, leaf) not in LEAVES:
            raise InputError(f"'{path}' has no PyTorch counterpart; known are kernel, scale, bias, mean and var.")
        name = ".".join(layers)
        for pattern, replacement in layout:
            name = re.sub(pattern, replacement, name)
        found[path] = f"{name}.{LEAVES[collection, leaf]}" if name else LEAVES[collection, leaf]
    if twice := [key for key, times in Counter(found.values()).items() if times > 1]:
        raise InputError(f"The layout gives several arrays the key {some(twice)}; make its patterns more specific.")
    return found


def from_torch(state: Mapping[str, Tensor], like: Variables, layout: Layout) -> Variables:
    """Variables of a linen model from a PyTorch state dict; every array is copied once.

    Args:
        state: floating-point arrays by PyTorch key, num_batches_tracked aside.
        like: variables of the model, or their shapes (`jax.eval_shape(network.init, key)`).
        layout: of the model, `of(name)` for one of the zoo.

    Returns:
        float32 numpy arrays in the structure of `like`.

    Raises:
        ValueError: one, for all keys that are missing, unused or of another shape; or for arrays
            that are not of floating-point numbers, or hold NaN, infinity or a negative variance.
    """
    wanted, names = named_leaves(like), keys(like, layout)
    expected = {names[path]: _to_torch_shape(leaf.shape) for path, leaf in wanted.items()}
    state = {key: value for key, value in state.items() if key.rpartition(".")[2] != COUNTER}
    _check_keys(state, expected)
    integers = (key for key, value in state.items() if not np.issubdtype(value.dtype, np.floating))
    _refuse("are not of floating-point numbers", integers)
    read = {path: _from_torch_axes(state[names[path]]) for path in wanted}
    _refuse("hold NaN or infinity", (names[path] for path, array in read.items() if not np.isfinite(array).all()))
    _refuse("are negative variances", (names[p] for p, a in read.items() if p.endswith(".var") and (a < 0).any()))
    return jax.tree.unflatten(jax.tree.structure(like), read.values())


def to_torch(variables: Variables, layout: Layout) -> dict[str, np.ndarray]:
    """The PyTorch state dict of a linen model, as C-contiguous float32 arrays; the inverse of `from_torch`.

    Raises:
        ValueError: as `keys`.
    """
    names, state = keys(variables, layout), {}
    for path, leaf in named_leaves(variables).items():
        state[names[path]] = _to_torch_axes(leaf)
        if names[path].endswith("running_var"):
            state[names[path].removesuffix("running_var") + COUNTER] = np.zeros((), np.int64)
    return state


def _check_keys(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    faults = {
        "missing": [key for key in expected if key not in shapes],
        "unused": [key for key in shapes if key not in expected],
        "of another shape": [
            f"{key} {list(shapes[key])} instead of {list(shape)}"
            for key, shape in expected.items()
            if shapes.get(key, shape) != shape
        ],
    }
    if any(faults.values()):
        listed = "; ".join(f"{fault}: {some(names)}" for fault, names in faults.items() if names)
        raise InputError(f"The keys are not those of the model ({listed}); name the model that they were trained as.")


def _refuse(fault: str, names: Iterable[str]) -> None:
    if bad := list(names):
        raise InputError(f"Arrays of the checkpoint {fault} ({some(bad)}); use another copy of it.")


def some(names: Iterable[str], most: int = 20) -> str:
    """The first names and how many more there are, for a sentence."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _to_torch_shape(shape: Sequence[int]) -> tuple[int, ...]:
    return (*shape[:-3:-1], *shape[:-2])


def _from_torch_axes(tensor: Tensor) -> np.ndarray:
    array = np.asarray(tensor)
    array = np.moveaxis(array, (1, 0), (-2, -1)) if array.ndim > 1 else array
    return np.array(array, np.float32, order="C")


def _to_torch_axes(tensor: Tensor) -> np.ndarray:
    array = np.asarray(tensor)
    array = np.moveaxis(array, (-2, -1), (1, 0)) if array.ndim > 1 else array
    return np.array(array, np.float32, order="C")
