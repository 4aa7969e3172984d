"""PyTorch's operators in jax that move values and compute none; see `torch_program` for how they are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from ssdkd_jax.types import Array

Axes = int | Sequence[int] | None


def _pad(self: Array, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Array:
    pairs = [(0, 0)] * (self.ndim - len(pad) // 2) + list(zip(pad[::2], pad[1::2], strict=True))[::-1]
    if mode == "constant":
        return lax.pad(self, jnp.asarray(value or 0, self.dtype), [(*pair, 0) for pair in pairs])
    return jnp.pad(self, pairs, mode={"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])


def _flatten(self: Array, start_dim: int, end_dim: int) -> Array:
    start, end = start_dim % self.ndim, end_dim % self.ndim
    return self.reshape(*self.shape[:start], -1, *self.shape[end + 1 :])


def _unflatten(self: Array, dim: int, sizes: Sequence[int]) -> Array:
    dim %= self.ndim
    return self.reshape(*self.shape[:dim], *sizes, *self.shape[dim + 1 :])


def _squeeze(self: Array, dim: Axes = None) -> Array:
    axes = range(self.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    return self.squeeze(tuple(axis for axis in axes if self.shape[axis] == 1))


def _expand(self: Array, size: Sequence[int]) -> Array:
    own = (1,) * (len(size) - self.ndim) + self.shape
    return jnp.broadcast_to(self, [have if want == -1 else want for have, want in zip(own, size, strict=True)])


def _span(self: Array, dim: int, start: int | None, end: int | None, step: int) -> tuple:
    return (*(slice(None),) * (dim % self.ndim), slice(start, end, step))


def _split(self: Array, split_size: int | Sequence[int], dim: int) -> list[Array]:
    if isinstance(split_size, int):
        return jnp.split(self, list(range(split_size, self.shape[dim], split_size)), dim)
    return jnp.split(self, [sum(split_size[:n]) for n in range(1, len(split_size))], dim)


def _chunk(self: Array, chunks: int, dim: int) -> list[Array]:
    return _split(self, -(-self.shape[dim] // chunks), dim)


def _index(self: Array, indices: Sequence[Array | None]) -> Array:
    return self[tuple(slice(None) if index is None else index for index in indices)]


def _pixel_shuffle(self: Array, upscale_factor: int) -> Array:
    batch, channels, height, width = self.shape
    r = upscale_factor
    blocks = self.reshape(batch, channels // r**2, r, r, height, width).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(batch, channels // r**2, height * r, width * r)


def _pixel_unshuffle(self: Array, downscale_factor: int) -> Array:
    batch, channels, height, width = self.shape
    r = downscale_factor
    blocks = self.reshape(batch, channels, height // r, r, width // r, r).transpose(0, 1, 3, 5, 2, 4)
    return blocks.reshape(batch, channels * r**2, height // r, width // r)


def _channel_shuffle(self: Array, groups: int) -> Array:
    return self.reshape(self.shape[0], groups, -1, *self.shape[2:]).swapaxes(1, 2).reshape(self.shape)


def _select_scatter(self: Array, src: Array, dim: int, index: int) -> Array:
    return self.at[(*(slice(None),) * (dim % self.ndim), index)].set(src)


OPERATORS: dict[str, Callable[..., Any]] = {
    "pad": _pad,
    "constant_pad_nd": lambda self, pad, value: _pad(self, pad, value=value),
    "flatten": _flatten,
    "unflatten": _unflatten,
    "view": lambda self, size: self.reshape(size),
    "_unsafe_view": lambda self, size: self.reshape(size),
    "reshape": lambda self, shape: self.reshape(shape),
    "view_as": lambda self, other: self.reshape(other.shape),
    "permute": lambda self, dims: self.transpose(dims),
    "transpose": lambda self, dim0, dim1: self.swapaxes(dim0, dim1),
    "t": lambda self: self.T,
    "numpy_T": lambda self: self.T,
    "movedim": lambda self, source, destination: jnp.moveaxis(self, source, destination),
    "squeeze": _squeeze,
    "unsqueeze": lambda self, dim: jnp.expand_dims(self, dim),
    "expand": _expand,
    "expand_as": lambda self, other: _expand(self, other.shape),
    "repeat": lambda self, repeats: jnp.tile(self, repeats),
    "cat": lambda tensors, dim: jnp.concatenate(tensors, dim),
    "stack": lambda tensors, dim: jnp.stack(tensors, dim),
    "chunk": _chunk,
    "split": _split,
    "split_with_sizes": lambda self, split_sizes, dim: _split(self, split_sizes, dim),
    "unbind": lambda self, dim: list(jnp.moveaxis(self, dim, 0)),
    "slice": lambda self, dim, start, end, step: self[_span(self, dim, start, end, step)],
    "select": lambda self, dim, index: lax.index_in_dim(self, index, dim, keepdims=False),
    "narrow": lambda self, dim, start, length: self[_span(self, dim, start, start + length, 1)],
    "index": _index,
    "index_select": lambda self, dim, index: jnp.take(self, index, dim),
    "slice_scatter": lambda self, src, dim, start, end, step: self.at[_span(self, dim, start, end, step)].set(src),
    "select_scatter": _select_scatter,
    "copy": lambda self, src: jnp.broadcast_to(src, self.shape).astype(self.dtype),
    "flip": lambda self, dims: jnp.flip(self, dims),
    "roll": lambda self, shifts, dims: jnp.roll(self, shifts, dims or None),
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
    "sym_size": lambda self, dim: self.shape[dim],
}
