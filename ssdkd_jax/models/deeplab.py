"""DeepLabV3 (Chen et al. 2017, arXiv 1706.05587): a class for every pixel, on a dilated ResNet-50 or MobileNetV2.

As trained by CMI (Fang et al., IJCAI 2021), and, where a name ends in `_dfad`, by DFAD (Fang et al. 2019):
the two differ in the last rate of the pyramid, in MobileNetV2's dilations and in its stem. A name that
ends in `_os16` has features at a sixteenth of the image, all others at an eighth. Those that end in
`_small` and `_tiny` are the same code, narrow and shallow, for small images and a CPU: features at a quarter.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssdkd_jax.models import mobilenetv2, resnet
from ssdkd_jax.models.layers import Conv1x1, Conv3x3, batch_norm, check_images, conv3x3, he_normal
from ssdkd_jax.models.widths import channels
from ssdkd_jax.types import Array


class ResNet(nn.Module):
    """The dilated ResNet of bottlenecks: 7x7 stem and max-pooling, then groups of blocks.

    Attributes:
        blocks: how many each group has; the widths double from group to group.
        width: of the first group, a quarter of its output.
        output_stride: pixels per feature; a group that would exceed it is dilated instead. At least 4.
        norm: the BatchNorm.
        share: of the channels of all layers.
    """

    blocks: tuple[int, ...]
    width: int
    output_stride: int
    norm: partial
    share: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, D] -> [B, H / output_stride, W / output_stride, 4 width 2^(groups - 1)]."""
        stem = partial(nn.Conv, kernel_size=(7, 7), strides=(2, 2), padding=((3, 3), (3, 3)), use_bias=False)
        stem = partial(stem, channels(self.width, self.share), kernel_init=he_normal)
        x = nn.relu(self.norm(name="bn1")(stem(name="conv1")(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        reached, dilation = 4, 1
        for group, blocks in enumerate(self.blocks):
            stride, before = (1 if group == 0 else 2), dilation
            if reached * stride > self.output_stride:
                stride, dilation = 1, dilation * stride
            reached *= stride
            for index in range(blocks):
                here = (stride, before) if index == 0 else (1, dilation)
                width = channels(self.width << group, self.share)
                block = partial(resnet.Block, width, here[0], True, self.norm, here[1])
                x = block(name=f"layer{group + 1}_{index}")(x)
        return x


class MobileNetV2(nn.Module):
    """The dilated MobileNetV2, without its head.

    Attributes:
        groups: (expansion, features, blocks, stride of the first) of each group.
        stem: channels of the stem.
        output_stride: pixels per feature; a group that would exceed it is dilated instead. At least 2.
        norm: the BatchNorm.
        dilate_later: whether a group that is dilated for its stride keeps the dilation before it
            throughout (DFAD), rather than in its first block alone (CMI).
        pad_stem, pad_first: where zeros are added, see `mobilenetv2.Block`.
        share: of the channels of all layers.
    """

    groups: tuple[tuple[int, int, int, int], ...]
    stem: int
    output_stride: int
    norm: partial
    dilate_later: bool = False
    pad_stem: bool = True
    pad_first: bool = True
    share: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, D] -> [B, H / output_stride, W / output_stride, features of the last group]."""
        padding = ((1, 1), (1, 1)) if self.pad_stem else "VALID"
        stem = partial(Conv3x3, channels(self.stem, self.share), strides=(2, 2), padding=padding)
        x = nn.relu6(self.norm(name="stem_bn")(stem(name="stem")(x)))
        reached, dilation, number = 2, 1, 0
        for expansion, features, blocks, stride in self.groups:
            before = dilation
            if reached * stride > self.output_stride:
                stride, dilation = 1, dilation * stride
            reached *= stride
            for index in range(blocks):
                number += 1
                here = before if index == 0 or self.dilate_later else dilation
                width, step = channels(features, self.share), stride if index == 0 else 1
                block = partial(mobilenetv2.Block, width, step, expansion, self.norm, here)
                x = block(self.pad_first, name=f"block{number}")(x)
        return x


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, three dilated 3x3 and the mean of the image, side by side.

    Attributes:
        features: of each branch and of the output.
        rates: dilations.
        norm: the BatchNorm.
    """

    features: int
    rates: tuple[int, ...]
    norm: partial

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, h, w, F] -> [B, h, w, features]."""
        pooled = jnp.mean(x, axis=(1, 2), keepdims=True)
        branches = [Conv1x1, *map(conv3x3, self.rates), Conv1x1]
        inputs = [x] * (1 + len(self.rates)) + [pooled]
        outputs = [
            nn.relu(self.norm(name=f"bn{i}")(conv(self.features, name=f"conv{i}")(seen)))
            for i, (conv, seen) in enumerate(zip(branches, inputs, strict=True))
        ]
        shape = outputs[0].shape
        joined = jnp.concatenate([jnp.broadcast_to(branch, shape) for branch in outputs], axis=-1)
        return nn.relu(self.norm(name="project_bn")(Conv1x1(self.features, name="project")(joined)))


class DeepLabV3(nn.Module):
    """Backbone, pyramid, a 3x3 and a 1x1 convolution, and bilinear interpolation to the image; without dropout.

    Attributes:
        backbone: called as backbone(norm=..., share=..., name=...), of `ResNet` or `MobileNetV2`.
        rates: of the pyramid.
        features: of the pyramid and the head.
        classes: C.
        axis_name: pmap axis over which BatchNorm averages its statistics, or None.
        share: of the channels of all layers but the last.
    """

    backbone: Callable[..., nn.Module]
    rates: tuple[int, ...]
    features: int
    classes: int
    axis_name: str | None = None
    share: float = 1.0

    @nn.compact
    def __call__(self, images: Array, train: bool) -> Array:
        """images [B, H, W, D], H and W at least 16 -> logits [B, H, W, C].

        Raises:
            ValueError: for smaller images.
        """
        check_images(images, 16, "DeepLabV3")
        norm = batch_norm(train, self.axis_name)
        features = channels(self.features, self.share)
        x = self.backbone(norm=norm, share=self.share, name="backbone")(images)
        x = Pyramid(features, self.rates, norm, name="pyramid")(x)
        x = nn.relu(norm(name="head_bn")(Conv3x3(features, name="head")(x)))
        x = nn.Conv(self.classes, (1, 1), kernel_init=he_normal, name="classifier")(x)
        return jax.image.resize(x, (x.shape[0], *images.shape[1:3], self.classes), "bilinear")


RESNET50 = partial(ResNet, (3, 4, 6, 3), 64)
CMI = partial(MobileNetV2, mobilenetv2.GROUPS, 32, pad_stem=False)
DFAD = partial(MobileNetV2, mobilenetv2.GROUPS, 32, dilate_later=True)

ZOO = {
    "deeplabv3_resnet50": partial(DeepLabV3, partial(RESNET50, output_stride=8), (12, 24, 36), 256),
    "deeplabv3_resnet50_os16": partial(DeepLabV3, partial(RESNET50, output_stride=16), (6, 12, 18), 256),
    "deeplabv3_resnet50_dfad": partial(DeepLabV3, partial(RESNET50, output_stride=8), (12, 24, 32), 256),
    "deeplabv3_resnet_small": partial(DeepLabV3, partial(ResNet, (2, 2), 12, output_stride=4), (2, 4, 6), 32),
    "deeplabv3_resnet_tiny": partial(DeepLabV3, partial(ResNet, (2, 2), 8, output_stride=4), (2, 4, 6), 20),
    "deeplabv3_mobilenet": partial(DeepLabV3, partial(CMI, output_stride=8), (12, 24, 36), 256),
    "deeplabv3_mobilenet_os16": partial(DeepLabV3, partial(CMI, output_stride=16), (6, 12, 18), 256),
    "deeplabv3_mobilenet_dfad": partial(DeepLabV3, partial(DFAD, output_stride=8), (12, 24, 32), 256),
}
