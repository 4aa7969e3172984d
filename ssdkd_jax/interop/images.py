"""What a network is fed by others: one rule for every entry that takes images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssdkd_jax import augment
from ssdkd_jax.errors import InputError
from ssdkd_jax.types import Array

TOLERANCE = 1e-3  # how far resampled images may leave [0, 1]


def as_float(images: Any, shape: Sequence[int | None]) -> Array:
    """Images as networks take them: uint8 is scaled by 1/255, floats are to lie in [0, 1] already.

    Under `jax.jit`, where values are not known, an image with a value elsewhere becomes NaN as a whole.

    Args:
        images: [B, H, W, D], uint8 or floats; anything that numpy makes an array of.
        shape: (H, W, D); None where any size will do.

    Returns:
        float32 [B, H, W, D].

    Raises:
        ValueError: for numbers of another type, another shape, or values that are not in [0, 1].
    """
    images = images if isinstance(images, jax.Array) else _array(images)
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"Images are of type {images.dtype}; give uint8 in [0, 255], or floats in [0, 1].")
    check_shape(images.shape, shape)
    if images.dtype == jnp.uint8:
        return augment.to_float(jnp.asarray(images))
    if isinstance(images, jax.core.Tracer):
        return jnp.where(_inside(images, (1, 2, 3)), images, jnp.nan).astype(jnp.float32)
    if not _inside(images):
        low, high = (float(bound(images)) for bound in (jnp.min, jnp.max))
        raise InputError(
            f"Images hold values from {low:g} to {high:g} and are to lie in [0, 1]; give them as uint8, or divided by "
            "their maximum (255), without NaN and not normalised, which the network does itself."
        )
    return jnp.asarray(images, jnp.float32)


def check_shape(found: Sequence[int], shape: Sequence[int | None]) -> None:
    """Raise ValueError unless `found` is [B, H, W, D] of the (H, W, D) in `shape`, None being any."""
    wanted = tuple(shape)
    if len(found) != 4 or any(size not in (None, given) for size, given in zip(wanted, found[1:], strict=True)):
        named = ", ".join(name if size is None else str(size) for name, size in zip("HWD", wanted, strict=True))
        raise InputError(
            f"Images have shape {list(found)}, but the network takes [B, {named}]: a batch, with the channels last; "
            "reshape, transpose or resize them."
        )


def _array(images: Any) -> np.ndarray:
    try:
        return np.asarray(images)
    except ValueError as error:  # of rows of unequal length
        raise InputError("Images are to be one array of equal sizes; stack them.") from error


def _inside(images: Any, axes: Sequence[int] | None = None) -> Array:
    """Whether all values over `axes` lie in [0, 1]; NaN does not."""
    return jnp.all((images >= -TOLERANCE) & (images <= 1 + TOLERANCE), axis=axes, keepdims=axes is not None)
