"""Random views of an image: flips, shifts and crops, each decided by a key."""

from __future__ import annotations

from collections.abc import Callable

import dm_pix as pix
import jax
import jax.numpy as jnp

from ssdkd_jax.types import Array, Key

View = Callable[[Key, Array], Array]
UNLABELLED = 255


def make(flip: bool, shift: int, crop: int = 0) -> View:
    """(key, image [H, W, D]) -> image: mirrored with probability 1/2, moved by at most `shift` pixels.

    The uncovered border is zero, as in the usual CIFAR recipe. With `crop`, [crop, crop, D] of what is then seen.
    """

    def view(key: Key, image: Array) -> Array:
        key_flip, key_shift = jax.random.split(key)
        if flip:
            image = pix.random_flip_left_right(key_flip, image)
        if shift:
            padded = jnp.pad(image, ((shift, shift), (shift, shift), (0, 0)))
            image = pix.random_crop(key_shift, padded, image.shape)
        if crop:
            image = pix.random_crop(jax.random.fold_in(key_shift, 1), image, (crop, crop, image.shape[-1]))
        return image

    return view


def with_labels(view: View) -> Callable[[Key, Array, Array], tuple[Array, Array]]:
    """(key, image [H, W, D], labels) -> (image, labels), both under the same view.

    Labels of pixels, int [H, W] in [0, 255], move with them, and are `UNLABELLED` where a view uncovers
    the border; the label of a whole image, int [], stays.
    """

    def labelled(key: Key, image: Array, labels: Array) -> tuple[Array, Array]:
        if labels.ndim == 0:
            return view(key, image), labels
        raised = labels.astype(image.dtype)[..., None] - UNLABELLED  # so that the zeros of a border mean UNLABELLED
        moved = view(key, jnp.concatenate([image, raised], axis=-1))
        return moved[..., :-1], (moved[..., -1] + UNLABELLED).astype(labels.dtype)

    return labelled


def to_float(images: Array) -> Array:
    """uint8 [0, 255] -> float32 [0, 1]."""
    return images.astype(jnp.float32) / 255.0


def to_uint8(images: Array) -> Array:
    """float32 [0, 1] -> uint8 [0, 255], rounded."""
    return jnp.round(jnp.clip(images, 0.0, 1.0) * 255.0).astype(jnp.uint8)
