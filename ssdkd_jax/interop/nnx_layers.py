"""Layers of an NNX module that say what they take in, and random streams that draw by a given key or not at all.

A layer of a copied module is given a subclass of its own class, which reports to `models.observe`; no class of flax or
of the user's is changed.
"""

from __future__ import annotations

import functools
from typing import Any, NoReturn

import jax
import jax.extend.random
import jax.numpy as jnp
from flax import nnx
from flax.errors import InvalidRngError

from ssdkd_jax.models import observe
from ssdkd_jax.types import Array, Key

PLAIN = (nnx.BatchNorm, nnx.Linear)


def watched(module: nnx.Module, axis: str | None) -> nnx.Module:
    """A copy of a module whose layers with running statistics, and whose Linear, report what they take in.

    Args:
        axis: pmap axis over which the running statistics are averaged, in layers with an attribute `axis_name`.
    """
    copy = nnx.clone(module)
    nnx.pop(copy, lambda path, value: type(value) is nnx.Intermediate)
    for path, layer in list(nnx.iter_modules(copy)):
        if isinstance(layer, nnx.bridge.ToNNX):  # linen's own layers are seen as linen's
            layer.to_nnx__rngs = None
            continue
        if isinstance(layer, nnx.Dropout) and layer.rngs is None:
            layer.rngs = nnx.RngStream(0, tag=layer.rng_collection)
        normalises = bool(running_statistics(layer))
        if normalises or isinstance(layer, nnx.Linear):
            layer.__class__ = _reporting(type(layer))
            layer.watched_path = "/".join(names(path))
        if normalises and axis is not None and hasattr(layer, "axis_name"):
            layer.axis_name = axis
    return copy


def running_statistics(layer: nnx.Module) -> list[Array]:
    """The running mean and variance that a layer itself keeps in nnx.BatchStat; none where it keeps none."""
    kept = [vars(layer).get(name) for name in observe.STATISTICS]
    return [x.get_value() for x in kept] if all(isinstance(x, nnx.BatchStat) for x in kept) else []


def names(path: tuple) -> tuple[str, ...]:
    """A path of attributes, indices and keys, of which a key may be a tuple of several."""
    return tuple(str(name) for part in path for name in (part if isinstance(part, tuple) else (part,)))


@functools.cache
def _reporting(kind: type) -> type:
    """A subclass of a layer's class that reports; the layer of flax that a class calls by `super()` reports, too."""
    base = next((plain for plain in PLAIN if issubclass(kind, plain) and kind is not plain), None)
    return _subclass(kind, (kind,) if base is None else (kind, _subclass(base, (base,), 1)), 0)


def _subclass(kind: type, bases: tuple[type, ...], depth: int) -> type:
    class Reporting(*bases):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            inputs, statistics = next(iter((*args, *kwargs.values()))), running_statistics(self)
            outputs = super().__call__(*args, **kwargs)
            axis = getattr(self, "axis", None) if statistics else None
            observe.report(self.watched_path, inputs, statistics, axis, depth)
            return _as_narrow(outputs, inputs) if statistics and getattr(self, "dtype", None) is None else outputs

    Reporting.__name__, Reporting.__qualname__, Reporting.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    return Reporting


def _as_narrow(outputs: Any, inputs: Array) -> Any:
    """Outputs that float32 statistics alone have widened, in the dtype of the inputs."""
    return outputs.astype(inputs.dtype) if inputs.dtype == jnp.bfloat16 and isinstance(outputs, jax.Array) else outputs


def stream_key(key: Key | None, number: int, layer: str, shape: tuple[int, ...]) -> Key:
    """The key of a module's `number`-th random stream, or keys of this shape.

    Args:
        key: of the whole module; None: a key that may be split, but of which nothing can be drawn.
        layer: that holds the stream, for the error's sentence.
    """
    own = jax.random.key(0, impl=_undrawable(layer)) if key is None else jax.random.fold_in(key, number)
    return jax.random.split(own, shape) if shape else own


@functools.cache
def _undrawable(layer: str) -> Any:
    """A kind of random keys of which nothing can be drawn."""

    def random_bits(*_: Any) -> NoReturn:
        raise InvalidRngError(f"The layer '{layer}' draws random numbers, but has no key to draw by.")

    def split(data: Array, shape: tuple[int, ...]) -> Array:
        return jnp.broadcast_to(data, (*shape, *data.shape))

    def seed(_: Array) -> Array:
        return jnp.zeros(1, jnp.uint32)

    return jax.extend.random.define_prng_impl(
        key_shape=(1,), seed=seed, split=split, random_bits=random_bits, fold_in=lambda data, _: data, name="undrawable"
    )
