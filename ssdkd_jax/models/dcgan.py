"""The DCGAN-like generator of the data-free family (Fang et al., AAAI 2022, for 32x32 images).

For larger images it starts as coarse, doubles more often, and halves its channels with each doubling, as
the generator of DFAD (Fang et al. 2019, for 128x128 images) does by transposed convolutions.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from ssdkd_jax.errors import InputError
from ssdkd_jax.types import Array


class Generator(nn.Module):
    """Latents to images by nearest-neighbour doublings.

    Attributes:
        image_shape: (H, W, D), H and W divisible by 2 to the power of `doublings`.
        width: channels of the last hidden layer; each before it has twice as many. 64 in the original.
        axis_name: pmap axis over which BatchNorm averages its statistics, or None.
    """

    image_shape: tuple[int, int, int]
    width: int = 64
    doublings: int = 2
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: Array, train: bool) -> Array:
        """z [B, Z] -> images [B, H, W, D] in [0, 1].

        Raises:
            ValueError: for an image size that does not divide.
        """
        height, width, channels = self.image_shape
        coarse, first = 2**self.doublings, self.width * 2 ** (self.doublings - 1)
        if height % coarse or width % coarse:
            raise InputError(f"The generator makes image sizes divisible by {coarse}, not {(height, width)}.")

        def norm(x: Array) -> Array:
            return nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, axis_name=self.axis_name)(x)

        def conv(features: int, bias: bool = False) -> nn.Conv:
            return nn.Conv(features, (3, 3), padding=((1, 1), (1, 1)), use_bias=bias)

        x = nn.Dense(first * (height // coarse) * (width // coarse))(z)
        x = norm(x.reshape(-1, height // coarse, width // coarse, first))
        for doubling in range(self.doublings):
            x = nn.leaky_relu(norm(conv(first >> doubling)(_double(x))), 0.2)
        return nn.sigmoid(conv(channels, bias=True)(x))


def _double(x: Array) -> Array:
    """Nearest-neighbour upsampling by two."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
