"""What each primitive of jax ties together: the elements of its inputs' axes, and those of its outputs'.

A rule takes the elements and the axes of the inputs, and gives the axes of the outputs. What has no rule keeps all
elements of its inputs, which is always right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ssdkd_jax.closed_form.graph import Operation
from ssdkd_jax.narrowing.elements import Axes, Elements, fixed
from ssdkd_jax.narrowing.regrouping import blocks, regrouped

Rule = Callable[[Elements, Operation, Sequence[Axes]], list[Axes]]


def shape_of(x: Any) -> tuple[int, ...]:
    """Of a node, or of a number that stands in the program."""
    return tuple(x.shape) if hasattr(x, "shape") else ()


def through(elements: Elements, operation: Operation, axes: Sequence[Axes]) -> list[Axes]:
    """The axes of an operation's outputs, with what it ties put into `elements`."""
    rule = RULES.get(operation.name, _unknown)
    made = rule(elements, operation, axes)
    return [tuple(axis if len(axis) != 1 else _single(elements, axis) for axis in one) for one in made]


def _single(elements: Elements, axis: np.ndarray) -> np.ndarray:
    """An axis of one element, which cannot be dropped."""
    elements.fix(axis)
    return np.zeros(1, np.int64)


def hold(elements: Elements, operation: Operation, axis: np.ndarray) -> None:
    """Keep all elements of an axis, and note on whose behalf."""
    if axis.any():
        elements.held.append((operation.name, operation.place))
        elements.fix(axis)


def _unknown(elements: Elements, operation: Operation, axes: Sequence[Axes]) -> list[Axes]:
    for axis in (axis for one in axes for axis in one):
        hold(elements, operation, axis)
    return [fixed(x.shape) for x in operation.outputs]


def _elementwise(elements: Elements, operation: Operation, axes: Sequence[Axes]) -> list[Axes]:
    made = list(fixed(operation.outputs[0].shape))
    for place, size in enumerate(operation.outputs[0].shape):
        first, *others = [one[place] for one in axes if one and len(one[place]) == size]
        for other in others:
            elements.tie(first, other)
        made[place] = first
    return [tuple(made)] * len(operation.outputs)


def _broadcast(elements: Elements, operation: Operation, axes: Sequence[Axes]) -> list[Axes]:
    made = list(elements.axes(operation.outputs[0].shape))
    for axis, place in zip(axes[0], operation.equation.params["broadcast_dimensions"], strict=True):
        if len(axis) == len(made[place]):
            made[place] = axis
    return [tuple(made)]


def _without(name: str) -> Rule:
    """Of an operation whose outputs lack the axes that a parameter of it names."""

    def rule(elements: Elements, operation: Operation, axes: Sequence[Axes]) -> list[Axes]:
        gone = operation.equation.params[name]
        return [tuple(axis for place, axis in enumerate(axes[0]) if place not in gone)] * len(operation.outputs)

    return rule


def _transpose(elements: Elements, operation: Operation, axes: Sequence[Axes]) -> list[Axes]:
    return [tuple(axes[0][place] for place in operation.equation.params["permutation"])]


def _concatenate(elements: Elements, operation: Operation, axes: Sequence[Axes]) -> list[Axes]:
    along, made = operation.equation.params["dimension"], list(axes[0])
    for other in axes[1:]:
        for place, axis in enumerate(other):
            if place != along:
                elements.tie(made[place], axis)
    made[along] = np.concatenate([one[along] for one in axes])
    return [tuple(made)]


def _slice(elements: Elements, operation: Operation, axes: Sequence[Axes]) -> list[Axes]:
    params = operation.equation.params
    steps = params["strides"] or (1,) * len(axes[0])
    spans = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
    return [tuple(axis[slice(*span)] for axis, span in zip(axes[0], spans, strict=True))]


def _split(elements: Elements, operation: Operation, axes: Sequence[Axes]) -> list[Axes]:
    along, ends = operation.equation.params["axis"], np.cumsum(operation.equation.params["sizes"])[:-1]
    parts = np.split(axes[0][along], ends)
    return [tuple(part if place == along else axis for place, axis in enumerate(axes[0])) for part in parts]


def _windows(elements: Elements, operation: Operation, axes: Sequence[Axes]) -> list[Axes]:
    """Of an operation that leaves some axes as they are: those along which its windows are of one."""
    untouched = operation.equation.params["window_dimensions"]
    return _where([size == 1 for size in untouched], elements, operation, axes)


def _pad(elements: Elements, operation: Operation, axes: Sequence[Axes]) -> list[Axes]:
    """Channels that are added stand beside those that are there."""
    made, shape = list(fixed(operation.outputs[0].shape)), operation.outputs[0].shape
    for place, (axis, config) in enumerate(zip(axes[0], operation.equation.params["padding_config"], strict=True)):
        if axis.any() and min(config) >= 0 and not config[2]:
            (added,) = elements.axes((shape[place],))
            elements.tie(added[config[0] :][: len(axis)], axis)
            elements.parts += [added[: config[0]], added[config[0] + len(axis) :]]
            made[place] = added
        elif any(config):
            hold(elements, operation, axis)
        else:
            made[place] = axis
    return [tuple(made)]


def _along(name: str) -> Rule:
    """Of an operation along the axes that a parameter of it names."""

    def rule(elements: Elements, operation: Operation, axes: Sequence[Axes]) -> list[Axes]:
        along = operation.equation.params[name]
        along = along if isinstance(along, tuple) else (along,)
        return _where([place not in along for place in range(len(axes[0]))], elements, operation, axes)

    return rule


def _where(kept: Sequence[bool], elements: Elements, operation: Operation, axes: Sequence[Axes]) -> list[Axes]:
    made = list(fixed(operation.outputs[0].shape))
    for place, (stays, axis) in enumerate(zip(kept, axes[0], strict=True)):
        if stays:
            made[place] = axis
        else:
            hold(elements, operation, axis)
    return [tuple(made)]


def _gather(elements: Elements, operation: Operation, axes: Sequence[Axes]) -> list[Axes]:
    """Of what is taken whole, the elements stay."""
    params, (source, *_) = operation.equation.params, operation.inputs
    numbers, made = params["dimension_numbers"], list(fixed(operation.outputs[0].shape))
    offsets = iter(numbers.offset_dims)
    for place, axis in enumerate(axes[0]):
        gone = place in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
        at = None if gone else next(offsets)
        if at is not None and params["slice_sizes"][place] == shape_of(source)[place]:
            made[at] = axis
        else:
            hold(elements, operation, axis)
    return [tuple(made)]


def _dot(elements: Elements, operation: Operation, axes: Sequence[Axes]) -> list[Axes]:
    (contracted, batched), (left, right) = operation.equation.params["dimension_numbers"], axes
    for one, other in ((contracted[0], contracted[1]), (batched[0], batched[1])):
        for i, j in zip(one, other, strict=True):
            elements.tie(left[i], right[j])
    rest = [
        axis
        for operand, side in ((left, 0), (right, 1))
        for place, axis in enumerate(operand)
        if place not in (*contracted[side], *batched[side])
    ]
    return [(*(left[i] for i in batched[0]), *rest)]


def _conv(elements: Elements, operation: Operation, axes: Sequence[Axes]) -> list[Axes]:
    params, (images, kernel) = operation.equation.params, axes
    if params["batch_group_count"] > 1:
        return _unknown(elements, operation, axes)
    spec, groups = params["dimension_numbers"], params["feature_group_count"]
    for in_images, in_kernel in zip(spec.lhs_spec[2:], spec.rhs_spec[2:], strict=True):
        hold(elements, operation, images[in_images])
        elements.fix(kernel[in_kernel])
    seen, inner, outer = images[spec.lhs_spec[1]], kernel[spec.rhs_spec[1]], kernel[spec.rhs_spec[0]]
    if groups > 1 and len(inner) == 1:  # a filter of each channel
        elements.tie(outer.reshape(groups, -1), seen[:, None])
    elif groups > 1:  # each group alike
        elements.tie(seen.reshape(groups, -1), inner)
        elements.tie(outer.reshape(groups, -1), outer.reshape(groups, -1)[0])
    else:
        elements.tie(seen, inner)
    made = list(fixed(operation.outputs[0].shape))
    made[spec.out_spec[0]], made[spec.out_spec[1]] = images[spec.lhs_spec[0]], outer
    return [tuple(made)]


def _reshape(elements: Elements, operation: Operation, axes: Sequence[Axes]) -> list[Axes]:
    before, after = shape_of(operation.inputs[0]), operation.outputs[0].shape
    made = list(fixed(after))
    for inner, outer in blocks(before, after):
        sizes = [after[place] for place in outer]
        for place, axis in zip(outer, regrouped(elements, [axes[0][i] for i in inner], sizes), strict=True):
            made[place] = axis
    return [tuple(made)]


ELEMENTWISE = (
    *("add", "sub", "mul", "div", "rem", "max", "min", "pow", "atan2", "nextafter", "select_n", "clamp", "integer_pow"),
    *("exp", "exp2", "log", "expm1", "log1p", "sqrt", "rsqrt", "cbrt", "square", "tanh", "logistic", "erf", "erfc"),
    *("sin", "cos", "tan", "sinh", "cosh", "neg", "sign", "abs", "floor", "ceil", "round", "is_finite", "not", "and"),
    *("or", "xor", "eq", "ne", "lt", "le", "gt", "ge", "convert_element_type", "reduce_precision", "copy", "real"),
    *("stop_gradient", "add_any", "erf_inv", "sharding_constraint"),
)
REDUCED = ("sum", "max", "min", "prod", "and", "or")
RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys((*(f"reduce_{name}" for name in REDUCED), "argmax", "argmin"), _without("axes")),
    **{f"reduce_window{kind}": _windows for kind in ("", "_sum", "_max", "_min")},
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _along("axis")),
    "rev": _along("dimensions"),
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "squeeze": _without("dimensions"),
    "concatenate": _concatenate,
    "slice": _slice,
    "split": _split,
    "pad": _pad,
    "gather": _gather,
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "reshape": _reshape,
}
