"""PyTorch definitions of the zoo, in the key layout of the checkpoints that users own (CMI, Fast-DFKD, NAYER).

python tests/torch_zoo.py    # records their logits anew
"""

import json

import torch
import torch.nn.functional as F
import zoo_weights
from torch import nn


def conv(features_in, features, size, stride=1, **settings):
    return nn.Conv2d(features_in, features, size, stride, size // 2, bias=False, **settings)


class WideBlock(nn.Module):
    def __init__(self, features_in, features, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(features_in), conv(features_in, features, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(features), conv(features, features, 3)
        self.convShortcut = conv(features_in, features, 1, stride) if features_in != features else None

    def forward(self, x):
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (self.convShortcut(active) if self.convShortcut else x)


class WideGroup(nn.Module):
    def __init__(self, blocks, features_in, features, stride):
        super().__init__()
        first = WideBlock(features_in, features, stride)
        self.layer = nn.Sequential(first, *(WideBlock(features, features, 1) for _ in range(blocks - 1)))

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    def __init__(self, depth, width, classes, channels):
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = conv(channels, 16, 3)
        self.block1 = WideGroup(blocks, 16, 16 * width, 1)
        self.block2 = WideGroup(blocks, 16 * width, 32 * width, 2)
        self.block3 = WideGroup(blocks, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))


class ResidualBlock(nn.Module):
    def __init__(self, features_in, features, stride, bottleneck):
        super().__init__()
        wide = 4 * features if bottleneck else features
        sizes = [(1, 1), (3, stride), (1, 1)] if bottleneck else [(3, stride), (3, 1)]
        widths = [features_in, *[features] * (len(sizes) - 1), wide]
        self.depth = len(sizes)
        for number, (size, step) in enumerate(sizes, 1):
            setattr(self, f"conv{number}", conv(widths[number - 1], widths[number], size, step))
            setattr(self, f"bn{number}", nn.BatchNorm2d(widths[number]))
        same = stride == 1 and features_in == wide
        self.shortcut = nn.Sequential(*([] if same else [conv(features_in, wide, 1, stride), nn.BatchNorm2d(wide)]))

    def forward(self, x):
        out = x
        for number in range(1, self.depth + 1):
            out = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(out))
            out = F.relu(out) if number < self.depth else out
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, blocks, bottleneck, classes, channels):
        super().__init__()
        self.conv1, self.bn1 = conv(channels, 64, 3), nn.BatchNorm2d(64)
        before = 64
        for group, count in enumerate(blocks):
            layers, features = [], 64 * 2**group
            for index in range(count):
                layers.append(ResidualBlock(before, features, 2 if group and not index else 1, bottleneck))
                before = 4 * features if bottleneck else features
            setattr(self, f"layer{group + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(before, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for group in range(1, 5):
            x = getattr(self, f"layer{group}")(x)
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class VGG(nn.Module):
    def __init__(self, blocks, classes, channels):
        super().__init__()
        for number, widths in enumerate(blocks):
            layers = []
            for features in widths:
                layers += [nn.Conv2d(channels, features, 3, padding=1), nn.BatchNorm2d(features), nn.ReLU()]
                channels = features
            setattr(self, f"block{number}", nn.Sequential(*layers[:-1]))
        self.classifier = nn.Linear(512, classes)

    def forward(self, x):
        pools = 4 if x.shape[2] == 64 else 3
        for number in range(5):
            x = F.relu(getattr(self, f"block{number}")(x))
            x = F.max_pool2d(x, 2) if number < pools else x
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


def unit(features_in, features, size, stride=1, groups=1):
    return nn.Sequential(conv(features_in, features, size, stride, groups=groups), nn.BatchNorm2d(features), nn.ReLU6())


class Inverted(nn.Module):
    def __init__(self, features_in, features, stride, expansion):
        super().__init__()
        wide = features_in * expansion
        widen = [unit(features_in, wide, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *widen, unit(wide, wide, 3, stride, wide), conv(wide, features, 1), nn.BatchNorm2d(features)
        )
        self.residual = stride == 1 and features_in == features

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        layers, before = [unit(channels, 32, 3, 2)], 32
        widths = [16, 24, 24, 32, 32, 32, *[64] * 4, *[96] * 3, *[160] * 3, 320]
        halving = {1, 3, 6, 13}
        for index, features in enumerate(widths):
            layers.append(Inverted(before, features, 2 if index in halving else 1, 6 if index else 1))
            before = features
        self.features = nn.Sequential(*layers, unit(320, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


VGGS = {
    "vgg8": [[64], [128], [256], [512], [512]],
    "vgg11": [[64], [128], [256, 256], [512, 512], [512, 512]],
    "vgg13": [[64, 64], [128, 128], [256, 256], [512, 512], [512, 512]],
}
RESNETS = {"resnet18": ([2, 2, 2, 2], False), "resnet34": ([3, 4, 6, 3], False), "resnet50": ([3, 4, 6, 3], True)}


def by_name(name, classes=10, channels=3):
    """The definition called `name`, in eval mode."""
    if name in RESNETS:
        return ResNet(*RESNETS[name], classes, channels).eval()
    if name in VGGS:
        return VGG(VGGS[name], classes, channels).eval()
    if name == "mobilenetv2":
        return MobileNetV2(classes, channels).eval()
    depth, width = map(int, name.removeprefix("wrn").split("_"))
    return WideResNet(depth, width, classes, channels).eval()


def load(model):
    """Give a model the weights that its keys stand for; returns it."""
    state = {key: torch.from_numpy(zoo_weights.array(key, value.shape)) for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    return model


def logits(name, size):
    """The model's answer to the recorded images, float32 [2, classes]."""
    images = torch.from_numpy(zoo_weights.images(size).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        return load(by_name(name, zoo_weights.CLASSES, zoo_weights.CHANNELS))(images).numpy()


def record():
    """Write the logits and the keys of every definition beside this file, for tests without PyTorch."""
    found = {}
    for name in zoo_weights.NAMES:
        state = by_name(name, zoo_weights.CLASSES, zoo_weights.CHANNELS).state_dict()
        answers = {str(size): logits(name, size).tolist() for size in zoo_weights.SIZES}
        found[name] = {"keys": zoo_weights.digest(state), "logits": answers}
    zoo_weights.RECORD.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    record()
