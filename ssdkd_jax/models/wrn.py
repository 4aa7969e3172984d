"""Wide residual networks for small images (Zagoruyko & Komodakis, BMVC 2016)."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from ssdkd_jax.errors import InputError
from ssdkd_jax.models.layers import Conv1x1, Conv3x3, batch_norm
from ssdkd_jax.models.widths import channels
from ssdkd_jax.types import Array


class Block(nn.Module):
    """Pre-activation residual block; the shortcut takes the activated input where widths differ."""

    features: int
    stride: int
    norm: partial

    @nn.compact
    def __call__(self, x: Array) -> Array:
        strides = (self.stride, self.stride)
        out = nn.relu(self.norm(name="bn1")(x))
        if x.shape[-1] != self.features:
            x = Conv1x1(self.features, strides=strides, name="convShortcut")(out)
        out = Conv3x3(self.features, strides=strides, name="conv1")(out)
        out = Conv3x3(self.features, name="conv2")(nn.relu(self.norm(name="bn2")(out)))
        return x + out


class WideResNet(nn.Module):
    """WRN-depth-width: three groups of (depth - 4) / 6 blocks at widths 16, 32, 64 times `width`.

    Attributes:
        depth: 6 n + 4, with n >= 1.
        width: the widening factor.
        classes: C.
        axis_name: pmap axis over which BatchNorm averages its statistics, or None.
        share: of the channels of all layers but the last.
    """

    depth: int
    width: int
    classes: int
    axis_name: str | None = None
    share: float = 1.0

    @nn.compact
    def __call__(self, images: Array, train: bool) -> Array:
        """images [B, H, W, D], H and W divisible by 4 -> logits [B, C].

        Raises:
            ValueError: for another depth or image size.
        """
        blocks, rest = divmod(self.depth - 4, 6)
        if rest or blocks < 1:
            raise InputError(f"WRN depth {self.depth} is not 6 n + 4; use 10, 16, 22, 28 or 40.")
        if images.shape[1] % 4 or images.shape[2] % 4:
            raise InputError(f"WRN takes image sizes divisible by 4, not {images.shape[1:3]}.")
        norm = batch_norm(train, self.axis_name)
        x = Conv3x3(channels(16, self.share), name="conv1")(images)
        for group, features in enumerate((16, 32, 64)):
            for index in range(blocks):
                stride = 2 if group > 0 and index == 0 else 1
                width = channels(features * self.width, self.share)
                x = Block(width, stride, norm, name=f"block{group + 1}_layer{index}")(x)
        x = nn.relu(norm(name="bn1")(x))
        return nn.Dense(self.classes, name="fc")(jnp.mean(x, axis=(1, 2)))


def parse(name: str) -> tuple[int, int] | None:
    """'wrn16_2' -> (16, 2); None where the name is not of that form."""
    depth, _, width = name.removeprefix("wrn").partition("_")
    return (int(depth), int(width)) if name.startswith("wrn") and depth.isdigit() and width.isdigit() else None
