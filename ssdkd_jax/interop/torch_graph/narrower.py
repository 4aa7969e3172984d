"""A program with fewer channels: the same operators, with the sizes that stand in them for the channels that are left.

What a PyTorch module computes sizes from, as x.shape[1], follows by itself. What stands in its graph as a number is
replaced: shapes of views, sizes of parts, begins and ends of slices, and the groups of filters of single channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ssdkd_jax import narrowing
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop.torch_graph import program as programs
from ssdkd_jax.interop.torch_graph import shapes
from ssdkd_jax.interop.torch_graph.program import REMEDY, Program, Step, Value
from ssdkd_jax.types import Array, Variables

IMAGES = 2
Masks = tuple[np.ndarray, ...]  # of an array, along each axis: what is kept


def narrowed(
    program: Program, variables: Variables, image_shape: Sequence[int], share: float
) -> tuple[Program, Variables]:
    """The program with a share of its channels, and its variables without the others.

    Args:
        image_shape: of one image as the program takes it, channels first.

    Raises:
        InputError: where nothing can be narrowed, or an operator does not allow it, with its place.
    """
    shape = (IMAGES, *image_shape)

    def values(variables: Variables, images: Array) -> dict[str, Any]:
        return {name: arrays(x) for name, x in programs.values(program, variables, images).items()}

    left = narrowing.kept(values, variables, shape, share, lambda found: found[program.logits.name])
    steps = [_narrowed(step, left.values) for step in program.steps]
    smaller = program._replace(steps=steps)
    fewer = jax.tree.map(_taken, variables, left.variables, is_leaf=lambda x: isinstance(x, np.ndarray))
    _check(smaller, fewer, shape, left.values)
    return smaller, fewer


def arrays(value: Any) -> Any:
    """A value of a program without the numbers in it."""
    if isinstance(value, list | tuple):
        return [arrays(x) for x in value]
    return value if isinstance(value, jax.Array | np.ndarray) else None


def _taken(array: np.ndarray, masks: Masks) -> np.ndarray:
    return np.asarray(array)[np.ix_(*masks)] if masks else np.asarray(array)


def _sizes(masks: Masks) -> list[int]:
    return [int(mask.sum()) for mask in masks]


def _check(program: Program, variables: Variables, shape: Sequence[int], masks: Mapping[str, Any]) -> None:
    """Raise InputError unless every step of the narrower program gives what is left of the step's value."""
    wanted = {name: masks[name] for name in (step.name for step in program.steps)}

    def values(variables: Variables, images: Array) -> dict[str, Any]:
        found = programs.values(program, variables, images)
        return {name: arrays(found[name]) for name in wanted}

    found = jax.eval_shape(values, variables, jax.ShapeDtypeStruct(shape, "float32"))
    for step in program.steps:
        expected = jax.tree.leaves(wanted[step.name], is_leaf=lambda x: isinstance(x, tuple))
        for x, masks_of in zip(jax.tree.leaves(found[step.name]), expected, strict=True):
            if list(x.shape) != _sizes(masks_of):
                raise InputError(
                    f"The network cannot be narrowed: the operator {step.operator} in {step.place} gives "
                    f"{list(x.shape)} where {_sizes(masks_of)} is left of its channels; {REMEDY}."
                )


def _narrowed(step: Step, masks: Mapping[str, Any]) -> Step:
    rewrite = REWRITES.get(step.operator.removeprefix("aten::"))
    return step if rewrite is None else rewrite(step, masks)


Rewrite = Callable[[Step, Mapping[str, Any]], Step]


def _with(step: Step, **changed: Any) -> Step:
    return step._replace(kwargs={**step.kwargs, **changed})


def _shaped(field: str) -> Rewrite:
    """Of an operator that is told the shape of its result: all axes, or from `dim` on."""

    def rewrite(step: Step, masks: Mapping[str, Any]) -> Step:
        sizes, begin = _sizes(masks[step.name]), step.kwargs.get("dim", 0)
        begin %= len(sizes)
        given = step.kwargs[field]
        chosen = sizes[begin : begin + len(given)]
        kept = [x if isinstance(x, Value) or x == -1 else size for x, size in zip(given, chosen, strict=True)]
        return _with(step, **{field: kept})

    return rewrite


def _parts(step: Step, masks: Mapping[str, Any]) -> Step:
    """Of an operator that cuts an axis up."""
    dim = step.kwargs["dim"]
    sizes = [_sizes(one)[dim] for one in masks[step.name]]
    kwargs = {"self": step.kwargs["self"], "split_size": sizes, "dim": dim}
    return step._replace(function=shapes.OPERATORS["split"], kwargs=kwargs)


def _span(step: Step, masks: Mapping[str, Any]) -> Step:
    """Of a slice: as many before its begin, and before its end, as are kept there."""
    mask = masks[step.kwargs["self"].name][step.kwargs["dim"]]
    bounds = {name: step.kwargs[name] for name in ("start", "end", "index") if name in step.kwargs}
    if mask.all() or any(isinstance(x, Value) for x in bounds.values()):
        return step
    return _with(step, **{name: None if x is None else int(mask[:x].sum()) for name, x in bounds.items()})


def _narrow(step: Step, masks: Mapping[str, Any]) -> Step:
    start, length, dim = (step.kwargs[name] for name in ("start", "length", "dim"))
    mask = masks[step.kwargs["self"].name][dim]
    if isinstance(start, Value) or isinstance(length, Value):
        return step
    return _with(step, start=int(mask[:start].sum()), length=int(mask[start : start + length].sum()))


def _padded(step: Step, masks: Mapping[str, Any]) -> Step:
    """Of padding: as many channels as are kept of those that it adds."""
    pads = list(step.kwargs["pad"])
    for place, mask in zip(range(0, len(pads), 2), reversed(masks[step.name]), strict=False):
        low, high = pads[place : place + 2]
        if not mask.all():
            pads[place : place + 2] = int(mask[:low].sum()), int(mask[len(mask) - high :].sum())
    return _with(step, pad=pads)


def _grouped(step: Step, masks: Mapping[str, Any]) -> Step:
    """Of a convolution: a filter of each channel stays one."""
    seen = masks[step.kwargs["input"].name][1]
    return _with(step, groups=int(seen.sum())) if step.kwargs["groups"] == len(seen) else step


REWRITES: dict[str, Rewrite] = {
    **dict.fromkeys(("view", "_unsafe_view", "expand", "zeros", "ones", "full"), _shaped("size")),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full"), _shaped("size")),
    "reshape": _shaped("shape"),
    "unflatten": _shaped("sizes"),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _parts),
    **dict.fromkeys(("slice", "select"), _span),
    "narrow": _narrow,
    **dict.fromkeys(("pad", "constant_pad_nd"), _padded),
    **{f"{kind}{n}d": _grouped for kind in ("conv", "conv_transpose") for n in (1, 2, 3)},
}
