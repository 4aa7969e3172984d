"""What the layers of a network see, for any linen module: they are watched, not changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ssdkd_jax.models import layers
from ssdkd_jax.types import Array


def inputs(call: Callable[[], Any], kind: type[nn.Module]) -> tuple[Any, list[Array]]:
    """`call()`, and the input [B, ..., features] of each of its layers of a kind, in the order of execution."""
    seen: list[Array] = []
    with layers.watch(kind, lambda _, x: seen.append(x)):
        result = call()
    return result, seen


def instance_means(seen: Sequence[Array]) -> Array:
    """The mean over the pixels of each layer's input, one beside the other: [B, F], F channels of all layers."""
    return jnp.concatenate([x.mean(tuple(range(1, x.ndim - 1))) for x in seen], axis=-1)
