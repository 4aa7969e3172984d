"""Networks of fewer channels: what a share of channels is, and a linen module that has it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from ssdkd_jax.engine.trees import named_leaves
from ssdkd_jax.errors import InputError

OURS = ("parent", "name")  # fields of linen itself


def channels(count: int, share: float) -> int:
    """That share of so many channels, at least one of them.

    >>> channels(64, 0.5), channels(10, 0.25), channels(1, 0.5)
    (32, 2, 1)
    """
    return max(1, round(share * count))


def narrowed(module: nn.Module, share: float, input_shape: Sequence[int]) -> nn.Module:
    """The module with that share of its channels: the same, with some of its fields scaled.

    Those are its fields of numbers, or of sequences of numbers, by whatever name. A field is scaled as long as this
    brings the channels of all layers nearer to the share, and neither adds nor drops a layer, nor changes a kernel's
    height and width or the shape of the logits. The rule is ours.

    Args:
        input_shape: of one input, (H, W, D).

    Raises:
        InputError: where no such field makes the module narrower.

    >>> from ssdkd_jax.models import vgg
    >>> narrowed(vgg.VGG(((8,), (16, 16)), classes=5), 0.5, (8, 8, 3)).widths
    ((4,), (8, 8))
    """
    before = _shapes(module, input_shape)
    chosen, misfit = module, _misfit(before, before, share)
    fields = sorted(field.name for field in dataclasses.fields(module) if field.init and field.name not in OURS)
    fields = [name for name in fields if _is_numbers(getattr(module, name))]
    while fields:
        trials = {name: chosen.clone(**{name: _scaled(getattr(module, name), share)}) for name in fields}
        found = {name: _tried(before, trial, share, input_shape) for name, trial in trials.items()}
        best = min(fields, key=found.__getitem__)
        if not found[best] < misfit:
            break
        chosen, misfit = trials[best], found[best]
        fields.remove(best)
    if chosen is module:
        tried = f"its fields ({', '.join(fields)}), when scaled, do not do it" if fields else "it has no field"
        raise InputError(
            f"The module '{type(module).__name__}' cannot be narrowed to {share:g} of its channels: {tried}; give it "
            "a field such as `width: int` that all its layers follow, or pass the narrower module itself."
        )
    return chosen


Shapes = dict[str, tuple[int, ...]]


def _shapes(module: nn.Module, input_shape: Sequence[int]) -> Shapes:
    """Those of its variables by path, and of its logits as ''."""
    inputs = jax.ShapeDtypeStruct((1, *input_shape), np.float32)
    logits, variables = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x, False), inputs)
    return {path: tuple(leaf.shape) for path, leaf in named_leaves(variables).items()} | {"": tuple(logits.shape)}


def _tried(before: Shapes, module: nn.Module, share: float, input_shape: Sequence[int]) -> float:
    try:
        return _misfit(before, _shapes(module, input_shape), share)
    except Exception:  # a module with another number in a field may raise whatever it likes
        return math.inf


def _misfit(before: Shapes, after: Shapes, share: float) -> float:
    """How far the channels of all layers are from the share; infinite where it is another network."""
    if before.keys() != after.keys() or before[""] != after[""]:
        return math.inf
    total = 0.0
    for path, shape in before.items():
        other = after[path]
        if len(shape) != len(other) or shape[:-2] != other[:-2] or any(map(int.__gt__, other, shape)):
            return math.inf
        if path and shape:
            total += abs(math.log(other[-1] / channels(shape[-1], share)))
    return total


def _is_numbers(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return len(value) > 0 and all(map(_is_numbers, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def _scaled(value: Any, share: float) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_scaled(x, share) for x in value)
    return channels(value, share) if isinstance(value, int) else value * share
