"""A classifier as one StableHLO artefact that jax alone runs: weights, normalisation and any batch size inside."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax import export

from ssdkd_jax.errors import InputError
from ssdkd_jax.interop.images import as_float
from ssdkd_jax.types import Array, Network, Variables

INPUTS = ("uint8", "float32")


def serialize(
    network: Network,
    variables: Variables,
    image_shape: Sequence[int],
    images: str = "uint8",
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> bytes:
    """What `jax.export.deserialize` reads; its `call` takes images [B, H, W, D], any B, to logits [B, C].

    Args:
        image_shape: (H, W, D).
        images: 'uint8' in [0, 255], or 'float32' in [0, 1]; an image with a value elsewhere gets logits of NaN.
        platforms: that it is to run on.

    Raises:
        ValueError: for another type of images, or a network that cannot be traced for any B.
    """
    if images not in INPUTS:
        raise InputError(f"Images of type '{images}' are not known; use {' or '.join(INPUTS)}.")

    def predict(batch: Array) -> Array:
        return network.apply(variables, as_float(batch, image_shape))

    shape = export.symbolic_shape(f"B, {', '.join(map(str, image_shape))}")
    try:
        traced = export.export(jax.jit(predict), platforms=platforms)(jax.ShapeDtypeStruct(shape, images))
    except TypeError as error:  # of a number that stands for any
        said = str(error).partition("\n")[0].rstrip(".")
        raise InputError(
            f"The network cannot be exported for batches of any size ({said}); take theirs from x.shape[0], not len(x)."
        ) from error
    return bytes(traced.serialize())
