"""What the layers of a network take in, for any linen module: they are intercepted, not changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ssdkd_jax.types import Array

Read = Callable[[nn.Module, Array], Any]


def inputs_of(layer: nn.Module, inputs: Array) -> Array:
    """Reads the input [B, ..., features] itself."""
    del layer
    return inputs


def layers(
    call: Callable[[], Any], kind: type[nn.Module] | tuple[type[nn.Module], ...], read: Read = inputs_of
) -> tuple[Any, list[Any]]:
    """`call()`, and what `read` makes of each layer of a kind and of its input, in the order of execution."""
    found: list[Any] = []

    def observe(layer, args, kwargs, context):
        if isinstance(context.module, kind) and context.method_name == "__call__":
            found.append(read(context.module, args[0] if args else kwargs["x" if "x" in kwargs else "inputs"]))
        return layer(*args, **kwargs)

    with nn.intercept_methods(observe):
        result = call()
    return result, found


def instance_means(inputs: Sequence[Array]) -> Array:
    """The mean over the pixels of each layer's input, one beside the other: [B, F], F channels of all layers."""
    return jnp.concatenate([x.mean(tuple(range(1, x.ndim - 1))) for x in inputs], axis=-1)
