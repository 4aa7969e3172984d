"""PyTorch's convolutions and pools in jax, channels first.

Each function takes the arguments of the aten operator by the names of its schema; see `program`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from ssdkd_jax.engine.convolution import convolve
from ssdkd_jax.interop.torch_graph.layers import affine, mixed
from ssdkd_jax.types import Array

Sizes = int | Sequence[int]


def conv(
    input: Array, weight: Array, bias: Array | None, stride: Sizes, padding: Sizes | str, dilation: Sizes, groups: int
) -> Array:
    """[B, I, ...] by [O, I / groups, ...], padded by numbers, 'same' or 'valid'."""
    n = weight.ndim - 2
    stride, dilation = _each(stride, n), _each(dilation, n)
    if isinstance(padding, str):
        total = [d * (k - 1) * (padding == "same") for d, k in zip(dilation, weight.shape[2:], strict=True)]
        pads = [(t // 2, t - t // 2) for t in total]
    else:
        pads = [(p, p) for p in _each(padding, n)]
    result = convolve(input, weight, stride, pads, rhs_dilation=dilation, feature_group_count=groups)
    return affine(result, None, bias)


def conv_transpose(
    input: Array,
    weight: Array,
    bias: Array | None,
    stride: Sizes,
    padding: Sizes,
    output_padding: Sizes,
    groups: int,
    dilation: Sizes,
) -> Array:
    """[B, I, ...] by [I, O / groups, ...], as a convolution of the input with zeros between its pixels."""
    n = weight.ndim - 2
    stride, padding, extra, dilation = (_each(x, n) for x in (stride, padding, output_padding, dilation))
    split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).swapaxes(1, 2)
    kernel = jnp.flip(split.reshape(-1, *split.shape[2:]), range(2, n + 2))
    before = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True)]
    pads = [(b, b + e) for b, e in zip(before, extra, strict=True)]
    result = lax.conv_general_dilated(
        input, kernel, [1] * n, pads, lhs_dilation=stride, rhs_dilation=dilation, feature_group_count=groups
    )
    return affine(result, None, bias)


def max_pool(self: Array, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, ceil_mode: bool) -> Array:
    """The largest value of each window."""
    n = self.ndim - 2
    kernel, padding, dilation = (_each(x, n) for x in (kernel_size, padding, dilation))
    stride = _each(stride, n) if stride else kernel
    pads = _pads(self.shape[2:], kernel, stride, padding, dilation, ceil_mode)
    least = np.array(-np.inf, self.dtype)
    if all(d == 1 for d in dilation):
        return lax.reduce_window(self, least, lax.max, (1, 1, *kernel), (1, 1, *stride), [(0, 0), (0, 0), *pads])
    padded = lax.pad(self, least, [(0, 0, 0), (0, 0, 0), *((*pad, 0) for pad in pads)])  # one that has gradients
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    ends = [size - r for size, r in zip(padded.shape[2:], reach, strict=True)]
    shifted = [
        padded[(..., *(slice(i * d, i * d + e, s) for i, d, e, s in zip(at, dilation, ends, stride, strict=True)))]
        for at in np.ndindex(*kernel)
    ]
    return functools.reduce(jnp.maximum, shifted)


def avg_pool(
    self: Array,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Sizes,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None = None,
) -> Array:
    """The mean of each window, of its pixels alone or also of its padding."""
    n = self.ndim - 2
    kernel, padding = _each(kernel_size, n), _each(padding, n)
    stride = _each(stride, n) if stride else kernel
    pads = _pads(self.shape[2:], kernel, stride, padding, [1] * n, ceil_mode)
    sums = lax.reduce_window(
        self, np.zeros((), self.dtype), lax.add, (1, 1, *kernel), (1, 1, *stride), [(0, 0), (0, 0), *pads]
    )
    if divisor_override:
        return sums / divisor_override
    counts = np.ones((), np.float32)
    for size, outputs, k, s, p in zip(self.shape[2:], sums.shape[2:], kernel, stride, padding, strict=True):
        starts = np.arange(outputs) * s - p
        ends = np.minimum(starts + k, size + p)
        inside = ends - starts if count_include_pad else np.minimum(ends, size) - np.maximum(starts, 0)
        counts = counts[..., None] * inside.astype(np.float32)
    return sums / counts


def adaptive_avg_pool(self: Array, output_size: Sequence[int]) -> Array:
    """The mean of each of `output_size` windows, which may overlap."""
    for axis, outputs in enumerate(output_size, self.ndim - len(output_size)):
        if outputs == 1:
            self = self.mean(axis, keepdims=True)
            continue
        weights = np.zeros((outputs, self.shape[axis]), np.float32)
        for row, (start, end) in zip(weights, _bins(self.shape[axis], outputs), strict=True):
            row[start:end] = 1 / (end - start)
        self = mixed(self, weights, axis)
    return self


def adaptive_max_pool(self: Array, output_size: Sequence[int]) -> tuple[Array]:
    """The largest value of each of `output_size` windows."""
    for axis, outputs in enumerate(output_size, self.ndim - len(output_size)):
        bins = _bins(self.shape[axis], outputs)
        self = jnp.stack([lax.slice_in_dim(self, *ends, axis=axis).max(axis) for ends in bins], axis)
    return (self,)


def _each(value: Any, n: int) -> list:
    values = list(value) if isinstance(value, Sequence) else [value]
    return values * n if len(values) == 1 else values


def _pads(sizes, kernel, stride, padding, dilation, ceil_mode: bool) -> list[tuple[int, int]]:
    """Padding before and after along each axis, with what the last window lacks where sizes are rounded up."""
    found = []
    for size, k, s, p, d in zip(sizes, kernel, stride, padding, dilation, strict=True):
        reach = d * (k - 1) + 1
        rest = size + 2 * p - reach
        outputs = (-(-rest // s) if ceil_mode else rest // s) + 1
        outputs -= ceil_mode and (outputs - 1) * s >= size + p  # none starts in the padding after
        found.append((p, max(p, (outputs - 1) * s + reach - size - p)))
    return found


def _bins(size: int, outputs: int) -> list[tuple[int, int]]:
    return [(i * size // outputs, -(-(i + 1) * size // outputs)) for i in range(outputs)]


DIMENSIONS = (1, 2, 3)
OPERATORS: dict[str, Callable[..., Any]] = {
    **{f"conv{n}d": conv for n in DIMENSIONS},
    **{f"conv_transpose{n}d": conv_transpose for n in DIMENSIONS},
    **{f"max_pool{n}d": max_pool for n in DIMENSIONS},
    **{f"avg_pool{n}d": avg_pool for n in DIMENSIONS},
    **{f"adaptive_avg_pool{n}d": adaptive_avg_pool for n in DIMENSIONS},
    **{f"adaptive_max_pool{n}d": adaptive_max_pool for n in DIMENSIONS},
}
