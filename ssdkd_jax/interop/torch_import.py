"""From a PyTorch checkpoint to a model of the zoo, recognised by its keys and shapes where it is not named."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import torch_deeplab, torch_files, torch_keys, torch_layout
from ssdkd_jax.models import deeplab, resnet, shares, vgg
from ssdkd_jax.types import Inputs, Variables


class Imported(NamedTuple):
    """A model of the zoo with the weights of a checkpoint.

    Attributes:
        model: its name.
        classes: C.
        channels: D.
        variables: float32 numpy arrays.
        remarks: what was done to its keys first, see `torch_keys`.
    """

    model: str
    classes: int
    channels: int
    variables: Variables
    remarks: tuple[str, ...]


def load(path: str | Path, image_size: Sequence[int] = (32, 32), model: str | None = None) -> Imported:
    """The model in a .pth, .pt or .safetensors file.

    Args:
        image_size: (H, W) that it is to take.
        model: its name in the zoo; None recognises it.

    Raises:
        FileNotFoundError, ValueError: as `torch_files.read`, `torch_keys.of_zoo` and `torch_layout.from_torch`; or
            where no model of the zoo is named or recognised.
    """
    raw = torch_files.read_raw(path)
    state, remarks = torch_keys.of_zoo(raw)
    guess = recognise(state)
    name = model or guess
    if name is None:
        raise InputError(
            f"The keys of '{path}' ({torch_layout.some(raw, 3)}) are those of no model of the zoo; write it as a "
            "linen module and map its keys with torch_layout.from_torch."
        )
    layout = torch_layout.of(name)
    classes, channels = sizes(state, name)
    if min(classes, channels) < 1:
        raise InputError(f"'{path}' has {classes} classes and {channels} channels; use another copy of it.")
    network = shares.named(name, Inputs((*image_size, channels), classes, (0.0,), (1.0,)))
    try:
        variables = torch_layout.from_torch(state, jax.eval_shape(network.init, jax.random.key(0)), layout)
    except ValueError as error:
        hint = f" They look like those of '{guess}'." if guess not in (None, name) else ""
        raise InputError(f"Cannot read '{path}' as a '{name}': {error}{hint}") from error
    return Imported(name, classes, channels, variables, remarks)


def recognise(state: Mapping[str, torch_layout.Tensor]) -> str | None:
    """The name of the zoo's model that has blocks of these keys and widths, or None."""
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    return next((name for family in _FAMILIES.values() if (name := family.name(shapes))), None)


def sizes(state: Mapping[str, torch_layout.Tensor], model: str) -> tuple[int, int]:
    """(classes, channels) by the last bias and the first convolution; 1 for what is not there."""
    family = torch_layout.of_family(model, _FAMILIES)
    head, stem = (tuple(state[key].shape) if key in state else () for key in (family.head, family.stem))
    return head[0] if head else 1, stem[1] if len(stem) == 4 else 1


Shapes = Mapping[str, tuple[int, ...]]


def _wrn(shapes: Shapes) -> str | None:
    blocks = _count(shapes, r"block1\.layer\.\d+\.conv1\.weight")
    width = (*shapes.get("block1.layer.0.conv1.weight", ()), 0)[0] // 16
    return f"wrn{6 * blocks + 4}_{width}" if blocks and width else None


def _resnet(shapes: Shapes) -> str | None:
    blocks = tuple(_count(shapes, rf"layer{group}\.\d+\.conv1\.weight") for group in (1, 2, 3, 4))
    bottleneck = "layer1.0.conv3.weight" in shapes
    return {partial.args: name for name, partial in resnet.ZOO.items()}.get((blocks, bottleneck))


def _vgg(shapes: Shapes) -> str | None:
    keys = [[f"block{block}.{index}.weight" for index in (0, 3)] for block in range(5)]
    widths = tuple(tuple(shapes[key][0] for key in block if shapes.get(key)) for block in keys)
    return {partial.args: name for name, partial in vgg.ZOO.items()}.get((widths,))


def _mobilenetv2(shapes: Shapes) -> str | None:
    return "mobilenetv2" if "features.17.conv.2.weight" in shapes else None


def _deeplab(shapes: Shapes) -> str | None:
    heads = {f"{torch_deeplab.CMI_HEAD}.4.weight": "", f"{torch_deeplab.DFAD_HEAD}.4.weight": "_dfad"}
    if (author := next((name for key, name in heads.items() if key in shapes), None)) is None:
        return None
    if {"backbone.high_level_features.17.conv.2.weight", "backbone.features.17.conv.6.weight"} & shapes.keys():
        return f"deeplabv3_mobilenet{author}"
    blocks = [_count(shapes, rf"backbone\.layer{group}\.\d+\.conv3\.weight") for group in (1, 2, 3, 4)]
    width = (*shapes.get("backbone.conv1.weight", ()), 0)[0]
    known = {partial.args[0].args: name for name, partial in reversed(deeplab.ZOO.items())}
    name = known.get((tuple(filter(None, blocks)), width))
    return name and f"{name}{author}"


def _count(shapes: Shapes, pattern: str) -> int:
    return sum(re.fullmatch(pattern, key) is not None for key in shapes)


class _Family(NamedTuple):
    """How a family is recognised, and the keys that tell the channels and the classes."""

    name: Callable[[Shapes], str | None]
    stem: str
    head: str


_FAMILIES = {
    "wrn": _Family(_wrn, "conv1.weight", "fc.bias"),
    "resnet": _Family(_resnet, "conv1.weight", "linear.bias"),
    "vgg": _Family(_vgg, "block0.0.weight", "classifier.bias"),
    "mobilenetv2": _Family(_mobilenetv2, "features.0.0.weight", "classifier.1.bias"),
    **{
        prefix: _Family(_deeplab, stem, f"{torch_deeplab.head(prefix)}.4.bias")
        for prefix, stem in torch_deeplab.STEMS.items()
    },
}
