"""The DCGAN-like generator of the data-free family (Fang et al., AAAI 2022, for 32x32 images)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from ssdkd_jax.types import Array


class Generator(nn.Module):
    """Latents to images by two nearest-neighbour doublings.

    Attributes:
        image_shape: (H, W, D), H and W divisible by 4.
        width: channels of the last hidden layer; the first has twice as many. 64 in the original.
        axis_name: pmap axis over which BatchNorm averages its statistics, or None.
    """

    image_shape: tuple[int, int, int]
    width: int = 64
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: Array, train: bool) -> Array:
        """z [B, Z] -> images [B, H, W, D] in [0, 1].

        Raises:
            ValueError: for an image size that does not divide by 4.
        """
        height, width, channels = self.image_shape
        if height % 4 or width % 4:
            raise ValueError(f"The generator makes image sizes divisible by 4, not {(height, width)}.")

        def norm(x: Array) -> Array:
            return nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, axis_name=self.axis_name)(x)

        def conv(features: int, bias: bool = False) -> nn.Conv:
            return nn.Conv(features, (3, 3), padding=((1, 1), (1, 1)), use_bias=bias)

        x = nn.Dense(2 * self.width * (height // 4) * (width // 4))(z)
        x = norm(x.reshape(-1, height // 4, width // 4, 2 * self.width))
        x = nn.leaky_relu(norm(conv(2 * self.width)(_double(x))), 0.2)
        x = nn.leaky_relu(norm(conv(self.width)(_double(x))), 0.2)
        return nn.sigmoid(conv(channels, bias=True)(x))


def _double(x: Array) -> Array:
    """Nearest-neighbour upsampling by two."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
