"""MobileNetV2 (Sandler et al., CVPR 2018), with the strides that the peers' CIFAR checkpoints were trained with.

These are the original's, 32 in all: the last features of a 32x32 image are a single pixel.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from ssdkd_jax.engine.convolution import convolve
from ssdkd_jax.models.layers import Conv1x1, Conv3x3, batch_norm, check_images, conv3x3
from ssdkd_jax.models.widths import channels
from ssdkd_jax.types import Array

GROUPS = (  # expansion, features, blocks, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class Block(nn.Module):
    """Inverted residual: widen, filter each channel, narrow without an activation.

    Attributes:
        features: channels of the output.
        stride, expansion, dilation: of the filter; `expansion` is how much the input is widened.
        norm: the BatchNorm.
        pad_first: pad the input with zeros before it is widened, rather than the filter's input, as the
            peers' DeepLab does: at the border the filter then sees what BatchNorm makes of a zero.
    """

    features: int
    stride: int
    expansion: int
    norm: partial
    dilation: int = 1
    pad_first: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        strides, wide, out = (self.stride, self.stride), self.expansion * x.shape[-1], x
        filtered = conv3x3(self.dilation)
        if self.pad_first:
            reach = (self.dilation, self.dilation)
            out, filtered = jnp.pad(out, ((0, 0), reach, reach, (0, 0))), partial(filtered, padding="VALID")
        if self.expansion > 1:
            out = nn.relu6(self.norm(name="expand_bn")(Conv1x1(wide, name="expand")(out)))
        each = partial(filtered, feature_group_count=wide, conv_general_dilated=convolve)
        out = each(wide, strides=strides, name="depthwise")(out)
        out = nn.relu6(self.norm(name="depthwise_bn")(out))
        out = self.norm(name="project_bn")(Conv1x1(self.features, name="project")(out))
        return x + out if self.stride == 1 and x.shape[-1] == self.features else out


class MobileNetV2(nn.Module):
    """Seventeen inverted residuals between a strided stem and a 1x1 head of 1,280 features, without dropout.

    Attributes:
        classes: C.
        axis_name: pmap axis over which BatchNorm averages its statistics, or None.
        share: of the channels of all layers but the last.
    """

    classes: int
    axis_name: str | None = None
    share: float = 1.0

    @nn.compact
    def __call__(self, images: Array, train: bool) -> Array:
        """images [B, H, W, D], H and W at least 8 -> logits [B, C].

        Raises:
            ValueError: for smaller images.
        """
        check_images(images, 8, "MobileNetV2")
        norm, block = batch_norm(train, self.axis_name), 0
        x = nn.relu6(norm(name="stem_bn")(Conv3x3(channels(32, self.share), strides=(2, 2), name="stem")(images)))
        for expansion, features, blocks, stride in GROUPS:
            for index in range(blocks):
                block += 1
                width = channels(features, self.share)
                x = Block(width, stride if index == 0 else 1, expansion, norm, name=f"block{block}")(x)
        x = nn.relu6(norm(name="head_bn")(Conv1x1(channels(1280, self.share), name="head")(x)))
        return nn.Dense(self.classes, name="classifier")(jnp.mean(x, axis=(1, 2)))


ZOO = {"mobilenetv2": MobileNetV2}
