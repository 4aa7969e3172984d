"""Networks as users write them in PyTorch: plain ones, some with BatchNorm and some without, of several activations.

Each is built as NETWORK(channels, classes, size, **options): of the images, and their side in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_layers import ACTIVATIONS, Block, conv


class LeNet(nn.Module):
    """Two 5x5 convolutions, each halved by a pool, and three dense layers."""

    def __init__(
        self, channels: int, classes: int, size: int, width: int = 16, pool: str = "max", activation: str = "relu"
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 5, padding=2)
        self.conv2 = nn.Conv2d(width, 2 * width, 5, padding=2)
        self.pool = nn.MaxPool2d(2) if pool == "max" else nn.AvgPool2d(2)
        self.fc1 = nn.Linear(2 * width * (size // 4) ** 2, 8 * width)
        self.fc2 = nn.Linear(8 * width, 4 * width)
        self.fc3 = nn.Linear(4 * width, classes)
        self.act = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.conv1(x)))
        x = self.pool(self.act(self.conv2(x)))
        x = self.act(self.fc1(torch.flatten(x, 1)))
        return self.fc3(self.act(self.fc2(x)))


class Cnn(nn.Module):
    """Pairs of 3x3 convolutions, each pair with a max-pool and a Dropout, then a dense layer and a head."""

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        widths: Sequence[int] = (32, 64),
        hidden: int = 128,
        drop: float = 0.0,
        norm: str = "none",
        activation: str = "relu",
    ):
        super().__init__()
        layers, before, act = [], channels, ACTIVATIONS[activation]
        for width in widths:
            layers += [*conv(before, width, norm), act(), *conv(width, width, norm), act()]
            layers += [nn.MaxPool2d(2), nn.Dropout2d(drop / 2)]
            before = width
        side = size // 2 ** len(widths)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(before * side**2, hidden), act(), nn.Dropout(drop), nn.Linear(hidden, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class Vgg(nn.Module):
    """Stages of 3x3 convolutions with a max-pool between them, an average over pixels, and a head."""

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        stages: Sequence[Sequence[int]] = ((32,), (64,), (128, 128)),
        norm: str = "none",
        activation: str = "relu",
    ):
        super().__init__()
        layers, before = [], channels
        for place, widths in enumerate(stages):
            layers += [nn.MaxPool2d(2)] if place else []
            for width in widths:
                layers += [*conv(before, width, norm), ACTIVATIONS[activation]()]
                before = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class Strided(nn.Module):
    """Convolutions with strides and no pool, then a dense layer on the flattened maps, and a head."""

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        widths: Sequence[int] = (32, 64, 96),
        hidden: int = 128,
        norm: str = "batch",
        activation: str = "leaky",
    ):
        super().__init__()
        layers, before = [*conv(channels, widths[0], norm), ACTIVATIONS[activation]()], widths[0]
        for width in widths:
            layers += [*conv(before, width, norm, stride=2), ACTIVATIONS[activation]()]
            before, size = width, -(-size // 2)
        self.body = nn.Sequential(*layers)
        self.hidden = nn.Linear(before * size**2, hidden)
        self.act = ACTIVATIONS[activation]()
        self.out = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.out(self.act(self.hidden(torch.flatten(x, 1))))


class AllConv(nn.Module):
    """Convolutions alone: 3x3 ones, average-pools, and 1x1 ones, the last of them the head."""

    def __init__(
        self, channels: int, classes: int, size: int, widths: Sequence[int] = (32, 64, 96), activation: str = "gelu"
    ):
        super().__init__()
        layers, before, act = [], channels, ACTIVATIONS[activation]
        for width in widths:
            layers += [*conv(before, width, "none"), act(), *conv(width, width, "none", 1), act(), nn.AvgPool2d(2)]
            before = width
        self.net = nn.Sequential(*layers, *conv(before, before, "none"), act(), nn.Conv2d(before, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).mean(dim=(2, 3))


class ResNet(nn.Module):
    """A stem, stages of residual blocks of which all but the first halve the maps, an average, and a head."""

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int = 2,
        norm: str = "batch",
        activation: str = "relu",
    ):
        super().__init__()
        self.stem = nn.Sequential(*conv(channels, widths[0], norm), ACTIVATIONS[activation]())
        layers, before = [], widths[0]
        for stage, width in enumerate(widths):
            for place in range(blocks):
                stride = 2 if stage and not place else 1
                layers.append(Block(before, width, stride, norm, activation))
                before = width
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.layers(self.stem(x)), 1)
        return self.fc(x.flatten(1))


class Separable(nn.Module):
    """Convolutions of single channels, each followed by a 1x1 one that mixes them."""

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        widths: Sequence[int] = (32, 64, 128, 128),
        norm: str = "batch",
        activation: str = "relu6",
    ):
        super().__init__()
        act, before = ACTIVATIONS[activation], widths[0]
        layers = [*conv(channels, before, norm), act()]
        for place, width in enumerate(widths):
            layers += [*conv(before, before, norm, stride=1 + place % 2, groups=before), act()]
            layers += [*conv(before, width, norm, 1), act()]
            before = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(before, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class Dense(nn.Module):
    """Each convolution sees the maps of all before it; average-pools between the stages."""

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        growth: int = 16,
        depths: Sequence[int] = (3, 3, 3),
        norm: str = "batch",
        activation: str = "relu",
    ):
        super().__init__()
        before = 2 * growth
        self.stem = nn.Sequential(*conv(channels, before, norm), ACTIVATIONS[activation]())
        self.stages = nn.ModuleList()
        for depth in depths:
            places = range(before, before + depth * growth, growth)
            act = ACTIVATIONS[activation]
            self.stages.append(nn.ModuleList(nn.Sequential(*conv(place, growth, norm), act()) for place in places))
            before += depth * growth
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for place, stage in enumerate(self.stages):
            x = F.avg_pool2d(x, 2) if place else x
            for layer in stage:
                x = torch.cat([x, layer(x)], 1)
        return self.fc(x.mean((2, 3)))


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    network.__name__: network for network in (LeNet, Cnn, Vgg, Strided, AllConv, ResNet, Separable, Dense)
}
