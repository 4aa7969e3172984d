"""Layers of the networks of experiments/torch_networks.py: convolutions that are normalised or not, and activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky": partial(nn.LeakyReLU, 0.1),
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
GROUPS = 4  # of a GroupNorm


def normalised(norm: str, features: int) -> list[nn.Module]:
    """The layer that normalises so many channels: 'batch', 'group', or 'none' at all."""
    made = {"batch": nn.BatchNorm2d, "group": partial(nn.GroupNorm, GROUPS)}
    return [] if norm == "none" else [made[norm](features)]


def conv(before: int, features: int, norm: str, size: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size, or halves it; with a bias where nothing normalises."""
    padding, bias = size // 2, norm == "none"
    layer = nn.Conv2d(before, features, size, stride, padding, groups=groups, bias=bias)
    return [layer, *normalised(norm, features)]


class Block(nn.Module):
    """Two convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, before: int, features: int, stride: int, norm: str, activation: str):
        super().__init__()
        self.conv1 = nn.Sequential(*conv(before, features, norm, stride=stride))
        self.conv2 = nn.Sequential(*conv(features, features, norm))
        same = stride == 1 and before == features
        self.shortcut = nn.Identity() if same else nn.Sequential(*conv(before, features, norm, 1, stride))
        self.act = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv2(self.act(self.conv1(x))) + self.shortcut(x))
