"""Networks of the experiments that the zoo lacks: narrow ones of its families, and some without BatchNorm.

Each is named 'networks:NAME', as any network of a user's own, and is called with `classes=C`.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn

from ssdkd_jax.models import resnet, vgg
from ssdkd_jax.models.layers import Conv3x3
from ssdkd_jax.types import Array


class Cnn(nn.Module):
    """Two convolutions, each halved by max-pooling, and two dense layers; no BatchNorm.

    Attributes:
        width: channels of the first convolution.
        classes: C.
    """

    width: int
    classes: int

    @nn.compact
    def __call__(self, images: Array, train: bool) -> Array:
        """images [B, H, W, D] -> logits [B, C]."""
        x = images
        for index, features in enumerate((self.width, 2 * self.width)):
            x = nn.relu(Conv3x3(features, use_bias=True, name=f"conv{index}")(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(4 * self.width, name="dense")(x.reshape(len(x), -1)))
        return nn.Dense(self.classes, name="head")(x)


cnn, cnn_half = (partial(Cnn, width) for width in (32, 16))
resnet34_narrow = partial(resnet.ZOO["resnet34"], share=1 / 4)
resnet18_narrow, resnet18_narrower = (partial(resnet.ZOO["resnet18"], share=share) for share in (1 / 4, 1 / 8))
vgg8_half = partial(vgg.ZOO["vgg8"], share=1 / 2)
vgg8_plain, vgg8_plain_half = (partial(vgg.ZOO["vgg8"], norm=False, share=share) for share in (1, 1 / 2))
