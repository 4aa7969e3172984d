"""VGG (Simonyan & Zisserman, ICLR 2015) for small images: global pooling, one linear layer, mostly BatchNorm."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from ssdkd_jax.models.layers import Conv3x3, batch_norm, check_images
from ssdkd_jax.models.widths import channels
from ssdkd_jax.types import Array


class VGG(nn.Module):
    """Five blocks of convolutions, halved by max-pooling after the first three.

    After the fourth too where images are 64 pixels high, as the peers' definition has it
    (Fang et al., the `vgg` of CMI and Fast-DFKD).

    Attributes:
        widths: of the convolutions, block by block.
        classes: C.
        axis_name: pmap axis over which BatchNorm averages its statistics, or None.
        share: of the channels of all layers but the last.
        norm: whether there is BatchNorm.
    """

    widths: tuple[tuple[int, ...], ...]
    classes: int
    axis_name: str | None = None
    share: float = 1.0
    norm: bool = True

    @nn.compact
    def __call__(self, images: Array, train: bool) -> Array:
        """images [B, H, W, D], H and W at least 8 -> logits [B, C].

        Raises:
            ValueError: for smaller images.
        """
        check_images(images, 8, "VGG")
        norm, x = batch_norm(train, self.axis_name), images
        pooled = (0, 1, 2, 3) if images.shape[1] == 64 else (0, 1, 2)
        for block, widths in enumerate(self.widths):
            for index, features in enumerate(widths):
                x = Conv3x3(channels(features, self.share), use_bias=True, name=f"block{block}_conv{index}")(x)
                x = nn.relu(norm(name=f"block{block}_bn{index}")(x) if self.norm else x)
            if block in pooled:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return nn.Dense(self.classes, name="classifier")(jnp.mean(x, axis=(1, 2)))


ZOO = {
    "vgg8": partial(VGG, ((64,), (128,), (256,), (512,), (512,))),
    "vgg11": partial(VGG, ((64,), (128,), (256, 256), (512, 512), (512, 512))),
    "vgg13": partial(VGG, ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512))),
}
