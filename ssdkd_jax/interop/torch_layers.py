"""PyTorch's dense layers, normalisations, resizing and attention in jax, channels first.

Each function takes the arguments of the aten operator by the names of its schema; see `torch_program`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ssdkd_jax.types import Array


def linear(input: Array, weight: Array, bias: Array | None) -> Array:
    """[..., I] by [O, I]."""
    result = input @ weight.T
    return result if bias is None else result + bias


def batch_norm(
    input: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    training: bool = False,
) -> Array:
    """[B, C, ...] by its running statistics, or by its own where there are none."""
    if training or running_mean is None or running_var is None:
        return affine(_standard(input, (0, *range(2, input.ndim)), eps), weight, bias)
    return affine((input - _lifted(running_mean, input)) * lax.rsqrt(_lifted(running_var, input) + eps), weight, bias)


def instance_norm(
    input: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    use_input_stats: bool,
    eps: float,
) -> Array:
    """Each channel of each image by itself, or by running statistics."""
    if not use_input_stats:
        return batch_norm(input, weight, bias, eps, running_mean, running_var)
    return affine(_standard(input, tuple(range(2, input.ndim)), eps), weight, bias)


def group_norm(input: Array, num_groups: int, weight: Array | None, bias: Array | None, eps: float) -> Array:
    """The channels of each image in groups."""
    groups = input.reshape(input.shape[0], num_groups, -1)
    return affine(_standard(groups, (2,), eps).reshape(input.shape), weight, bias)


def layer_norm(
    input: Array, normalized_shape: Sequence[int], weight: Array | None, bias: Array | None, eps: float
) -> Array:
    """The last axes by themselves."""
    result = _standard(input, tuple(range(-len(normalized_shape), 0)), eps)
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


def nearest(input: Array, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None) -> Array:
    """Resized over its last axes by the pixel that is nearest, as PyTorch rounds it."""
    for axis, (outputs, step) in _resized(input, output_size, scale_factors):
        places = np.floor(np.arange(outputs, dtype=np.float32) * np.float32(step)).astype(np.int32)
        input = jnp.take(input, np.minimum(places, input.shape[axis] - 1), axis)
    return input


def bilinear(
    input: Array, output_size: Sequence[int] | None, align_corners: bool, scale_factors: Sequence[float] | None
) -> Array:
    """Resized over its last axes by the pixels between which it falls."""
    for axis, (outputs, step) in _resized(input, output_size, scale_factors):
        size, places = input.shape[axis], np.arange(outputs, dtype=np.float64)
        places = places * (size - 1) / max(outputs - 1, 1) if align_corners else (places + 0.5) * step - 0.5
        places = np.clip(places, 0, size - 1)
        weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(size))).astype(np.float32)
        input = mixed(input, weights, axis)
    return input


def attention(
    query: Array, key: Array, value: Array, attn_mask: Array | None, is_causal: bool, scale: float | None
) -> Array:
    """Scaled dot-product attention, [..., L, E]; a mask is added, or holds what may be looked at."""
    scores = query @ key.swapaxes(-1, -2) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    if attn_mask is not None:
        masked = attn_mask.dtype == bool
        scores = jnp.where(attn_mask, scores, -jnp.inf) if masked else scores + attn_mask
    return jax.nn.softmax(scores, -1) @ value


def weight_norm(v: Array, g: Array, dim: int) -> Array:
    """A weight of length `g` along an axis, in the direction of `v`."""
    others = tuple(axis for axis in range(v.ndim) if axis != dim)
    return v * (g / jnp.sqrt((v * v).sum(others, keepdims=True)))


def first(function: Callable[..., Array]) -> Callable[..., tuple[Array]]:
    """The function as an operator that returns more, of which the first alone is known."""
    return functools.wraps(function)(lambda *args, **kwargs: (function(*args, **kwargs),))


def mixed(x: Array, weights: np.ndarray, axis: int) -> Array:
    """Along an axis, weighted sums by [after, before]."""
    return jnp.moveaxis(jnp.tensordot(x, weights, ((axis,), (1,)), precision="highest"), -1, axis)


def affine(x: Array, weight: Array | None, bias: Array | None) -> Array:
    """[B, C, ...] times and plus numbers [C]."""
    x = x if weight is None else x * _lifted(weight, x)
    return x if bias is None else x + _lifted(bias, x)


def _resized(x: Array, output_size, scale_factors) -> list[tuple[int, tuple[int, float]]]:
    """(axis, (size after, its step in pixels before)) of the last axes."""
    sizes = x.shape[2:]
    if output_size is None:
        output_size = [int(size * scale) for size, scale in zip(sizes, scale_factors, strict=True)]
    steps = (
        [1 / f for f in scale_factors] if scale_factors else [n / m for n, m in zip(sizes, output_size, strict=True)]
    )
    return list(enumerate(zip(output_size, steps, strict=True), 2))


def _standard(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    return (x - x.mean(axes, keepdims=True)) * lax.rsqrt(x.var(axes, keepdims=True) + eps)


def _lifted(channels: Array, like: Array) -> Array:
    return channels.reshape(-1, *(1,) * (like.ndim - 2))


OPERATORS: dict[str, Callable[..., Any]] = {
    "linear": linear,
    "batch_norm": batch_norm,
    **{f"_native_batch_norm_legit{kind}": first(batch_norm) for kind in ("", "_no_training", "_functional")},
    "instance_norm": instance_norm,
    "group_norm": group_norm,
    "layer_norm": layer_norm,
    **{f"upsample_nearest{n}d": nearest for n in (1, 2, 3)},
    "upsample_linear1d": bilinear,
    "upsample_bilinear2d": bilinear,
    "_weight_norm": weight_norm,
    "scaled_dot_product_attention": attention,
}
