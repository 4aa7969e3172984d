"""What the zoo shares: layers with PyTorch's conventions, so that its checkpoints mean the same here.

Padding is explicit, since 'SAME' shifts a strided convolution by a pixel; Flax's BatchNorm momentum
0.9 is PyTorch's 0.1. One thing differs, in training alone: the running variance takes the biased
variance of a batch here, the unbiased one in PyTorch.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn

from ssdkd_jax.errors import InputError
from ssdkd_jax.types import Array

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
Conv3x3 = partial(nn.Conv, kernel_size=(3, 3), padding=((1, 1), (1, 1)), use_bias=False, kernel_init=he_normal)
Conv1x1 = partial(nn.Conv, kernel_size=(1, 1), padding="VALID", use_bias=False, kernel_init=he_normal)


def conv3x3(dilation: int) -> partial:
    """`Conv3x3` whose taps are `dilation` pixels apart, at the same resolution."""
    return partial(Conv3x3, kernel_dilation=(dilation, dilation), padding=((dilation, dilation),) * 2)


def batch_norm(train: bool, axis_name: str | None) -> partial:
    """A BatchNorm to be named: of the batch's statistics in training, of the running ones otherwise."""
    return partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, axis_name=axis_name)


def check_images(images: Array, least: int, model: str) -> None:
    """Raise ValueError unless `images` are [B, H, W, D] with H and W at least `least`."""
    if images.ndim != 4 or min(images.shape[1:3]) < least:
        raise InputError(
            f"{model} takes images [B, H, W, D] of at least {least}x{least} pixels, not of shape {images.shape}; "
            "enlarge them."
        )
