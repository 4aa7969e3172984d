"""Residual networks (He et al., CVPR 2016) for small images: a 3x3 stem of stride 1, no max-pooling."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from ssdkd_jax.models.layers import Conv1x1, Conv3x3, batch_norm, check_images, conv3x3
from ssdkd_jax.models.widths import channels
from ssdkd_jax.types import Array


class Block(nn.Module):
    """Two 3x3 convolutions, or a bottleneck of three with a fourfold width at its end (that alone may be dilated)."""

    features: int
    stride: int
    bottleneck: bool
    norm: partial
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        strides, wide = (self.stride, self.stride), self.features * (4 if self.bottleneck else 1)
        if self.bottleneck:
            out = nn.relu(self.norm(name="bn1")(Conv1x1(self.features, name="conv1")(x)))
            atrous = conv3x3(self.dilation)
            out = nn.relu(self.norm(name="bn2")(atrous(self.features, strides=strides, name="conv2")(out)))
            out = self.norm(name="bn3")(Conv1x1(wide, name="conv3")(out))
        else:
            out = nn.relu(self.norm(name="bn1")(Conv3x3(self.features, strides=strides, name="conv1")(x)))
            out = self.norm(name="bn2")(Conv3x3(self.features, name="conv2")(out))
        if self.stride != 1 or x.shape[-1] != wide:
            x = self.norm(name="shortcut_bn")(Conv1x1(wide, strides=strides, name="shortcut_conv")(x))
        return nn.relu(x + out)


class ResNet(nn.Module):
    """Four groups of blocks at widths 64, 128, 256, 512, each but the first at half the resolution.

    Attributes:
        blocks: how many each group has.
        bottleneck: whether a block is a bottleneck.
        classes: C.
        axis_name: pmap axis over which BatchNorm averages its statistics, or None.
        share: of the channels of all layers but the last.
    """

    blocks: tuple[int, ...]
    bottleneck: bool
    classes: int
    axis_name: str | None = None
    share: float = 1.0

    @nn.compact
    def __call__(self, images: Array, train: bool) -> Array:
        """images [B, H, W, D], H and W at least 8 -> logits [B, C].

        Raises:
            ValueError: for smaller images.
        """
        check_images(images, 8, "ResNet")
        norm = batch_norm(train, self.axis_name)
        x = nn.relu(norm(name="bn1")(Conv3x3(channels(64, self.share), name="conv1")(images)))
        for group, blocks in enumerate(self.blocks):
            for index in range(blocks):
                stride = 2 if group > 0 and index == 0 else 1
                width = channels(64 << group, self.share)
                x = Block(width, stride, self.bottleneck, norm, name=f"layer{group + 1}_{index}")(x)
        return nn.Dense(self.classes, name="linear")(jnp.mean(x, axis=(1, 2)))


ZOO = {
    "resnet18": partial(ResNet, (2, 2, 2, 2), False),
    "resnet34": partial(ResNet, (3, 4, 6, 3), False),
    "resnet50": partial(ResNet, (3, 4, 6, 3), True),
}
