"""Random views of an image: flips and shifts, each decided by a key."""

from __future__ import annotations

from collections.abc import Callable

import dm_pix as pix
import jax
import jax.numpy as jnp

from ssdkd_jax.types import Array, Key

View = Callable[[Key, Array], Array]


def make(flip: bool, shift: int) -> View:
    """(key, image [H, W, D]) -> image: mirrored with probability 1/2, moved by at most `shift` pixels.

    The uncovered border is zero, as in the usual CIFAR recipe.
    """

    def view(key: Key, image: Array) -> Array:
        key_flip, key_shift = jax.random.split(key)
        if flip:
            image = pix.random_flip_left_right(key_flip, image)
        if shift:
            padded = jnp.pad(image, ((shift, shift), (shift, shift), (0, 0)))
            image = pix.random_crop(key_shift, padded, image.shape)
        return image

    return view


def to_float(images: Array) -> Array:
    """uint8 [0, 255] -> float32 [0, 1]."""
    return images.astype(jnp.float32) / 255.0


def to_uint8(images: Array) -> Array:
    """float32 [0, 1] -> uint8 [0, 255], rounded."""
    return jnp.round(jnp.clip(images, 0.0, 1.0) * 255.0).astype(jnp.uint8)
