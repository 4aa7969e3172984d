"""Where images come from that are not data: functions of a key, all of one contract, each compiled.

A `Source` makes a fixed number of images: key -> [B, H, W, D] float32 in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ssdkd_jax.errors import InputError
from ssdkd_jax.types import Array, Key

Source = Callable[[Key], Array]


def stored(images: np.ndarray, count: int) -> Source:
    """Some of the images that are there, as those of a buffer: none twice as long as there are enough.

    Args:
        images: uint8 [M, H, W, D].
        count: B.

    Raises:
        InputError: where there is none.
    """
    if not len(images):
        raise InputError("There are no images to draw from; give at least one.")
    held = jnp.asarray(images)

    @jax.jit
    def draw(key: Key) -> Array:
        order = jax.random.permutation(key, len(held))
        return held[jnp.resize(order, count)].astype(jnp.float32) / 255

    return draw


def mixture(sources: Sequence[Source]) -> Source:
    """The images of several sources, one after the other, each by a key of its own."""

    def draw(key: Key) -> Array:
        keys = jax.random.split(key, len(sources))
        return jnp.concatenate([source(k) for source, k in zip(sources, keys, strict=True)])

    return draw
