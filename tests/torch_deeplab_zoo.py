"""PyTorch definitions of the peers' DeepLabV3, in the two key layouts of their checkpoints (CMI and DFAD).

python tests/torch_deeplab_zoo.py    # records their logits anew
"""

import json

import deeplab_weights
import torch
import torch.nn.functional as F
import zoo_weights
from torch import nn


def conv(features_in, features, size, stride=1, dilation=1, padding=None, groups=1):
    padding = dilation * (size // 2) if padding is None else padding
    return nn.Conv2d(features_in, features, size, stride, padding, dilation, groups, bias=False)


class Bottleneck(nn.Module):
    def __init__(self, features_in, features, stride, dilation):
        super().__init__()
        self.conv1, self.bn1 = conv(features_in, features, 1), nn.BatchNorm2d(features)
        self.conv2, self.bn2 = conv(features, features, 3, stride, dilation), nn.BatchNorm2d(features)
        self.conv3, self.bn3 = conv(features, 4 * features, 1), nn.BatchNorm2d(4 * features)
        if stride > 1 or features_in != 4 * features:
            self.downsample = nn.Sequential(conv(features_in, 4 * features, 1, stride), nn.BatchNorm2d(4 * features))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out)))))
        return F.relu(out + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet50(nn.Module):
    """Layer 3 and 4 are dilated at output stride 8, layer 4 alone at 16."""

    out = 2048

    def __init__(self, channels, output_stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        strides, dilations = ((1, 2, 1, 1), (1, 1, 2, 4)) if output_stride == 8 else ((1, 2, 2, 1), (1, 1, 1, 2))
        before, dilated = 64, 1
        for group, count in enumerate((3, 4, 6, 3)):
            layers = []
            for index in range(count):
                stride, dilation = (1, dilations[group]) if index else (strides[group], dilated)
                layers.append(Bottleneck(before, 64 * 2**group, stride, dilation))
                before = 256 * 2**group
            dilated = dilations[group]
            setattr(self, f"layer{group + 1}", nn.Sequential(*layers))

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def unit(features_in, features, size, stride=1, dilation=1, groups=1, padding=0):
    layer = conv(features_in, features, size, stride, dilation, padding, groups)
    return nn.Sequential(layer, nn.BatchNorm2d(features), nn.ReLU6())


class Inverted(nn.Module):
    """The input is padded, so that the widening sees zeros too; `flat` leaves the layers ungrouped."""

    def __init__(self, features_in, features, stride, dilation, expansion, flat):
        super().__init__()
        wide = features_in * expansion
        parts = [unit(features_in, wide, 1)] if expansion > 1 else []
        parts += [unit(wide, wide, 3, stride, dilation, wide), conv(wide, features, 1), nn.BatchNorm2d(features)]
        if flat:
            parts = [layer for part in parts for layer in (part if isinstance(part, nn.Sequential) else [part])]
        self.conv = nn.Sequential(*parts)
        self.reach, self.residual = dilation, stride == 1 and features_in == features

    def forward(self, x):
        out = self.conv(F.pad(x, [self.reach] * 4))
        return x + out if self.residual else out


WIDTHS = [16, 24, 24, 32, 32, 32, *[64] * 4, *[96] * 3, *[160] * 3, 320]
STRIDES = {1: 2, 3: 2, 6: 2, 13: 2}


def mobilenet_features(channels, output_stride, dfad):
    """The dilations are written out, block by block."""
    if output_stride == 16:
        dilations = [1] * 14 + [2] * 3
    elif dfad:
        dilations = [1] * 10 + [2] * 6 + [4]
    else:
        dilations = [1] * 7 + [2] * 7 + [4] * 3
    layers, before, reached = [unit(channels, 32, 3, 2, padding=1 if dfad else 0)], 32, 2
    for index, features in enumerate(WIDTHS):
        stride = STRIDES.get(index, 1) if reached < output_stride else 1
        reached *= stride
        layers.append(Inverted(before, features, stride, dilations[index], 6 if index else 1, dfad))
        before = features
    return nn.Sequential(*layers)


class CmiMobileNet(nn.Module):
    out = 320

    def __init__(self, channels, output_stride):
        super().__init__()
        features = mobilenet_features(channels, output_stride, dfad=False)
        self.low_level_features, self.high_level_features = features[:4], features[4:]

    def forward(self, x):
        return self.high_level_features(self.low_level_features(x))


class DfadMobileNet(nn.Module):
    out = 320

    def __init__(self, channels, output_stride):
        super().__init__()
        self.features = mobilenet_features(channels, output_stride, dfad=True)

    def forward(self, x):
        return self.features(x)


class Pooled(nn.Sequential):
    def forward(self, x):
        return F.interpolate(super().forward(x), size=x.shape[-2:], mode="bilinear", align_corners=False)


class Pyramid(nn.Module):
    def __init__(self, features, rates):
        super().__init__()
        branches = [nn.Sequential(conv(features, 256, 1), nn.BatchNorm2d(256), nn.ReLU())]
        branches += [
            nn.Sequential(conv(features, 256, 3, dilation=rate), nn.BatchNorm2d(256), nn.ReLU()) for rate in rates
        ]
        pool = Pooled(nn.AdaptiveAvgPool2d(1), conv(features, 256, 1), nn.BatchNorm2d(256), nn.ReLU())
        self.convs = nn.ModuleList([*branches, pool])
        self.project = nn.Sequential(conv(1280, 256, 1), nn.BatchNorm2d(256), nn.ReLU(), nn.Dropout(0.1))

    def forward(self, x):
        return self.project(torch.cat([branch(x) for branch in self.convs], 1))


class Wrapped(nn.Module):
    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, x):
        return self.classifier(x)


class DeepLab(nn.Module):
    def __init__(self, backbone, rates, classes, dfad):
        super().__init__()
        self.backbone = backbone
        head = nn.Sequential(
            Pyramid(backbone.out, rates),
            conv(256, 256, 3),
            nn.BatchNorm2d(256),
            nn.ReLU(),
            nn.Conv2d(256, classes, 1),
        )
        self.classifier = head if dfad else Wrapped(head)

    def forward(self, x):
        out = self.classifier(self.backbone(x))
        return F.interpolate(out, size=x.shape[-2:], mode="bilinear", align_corners=False)


def by_name(name, classes=13, channels=3):
    """The definition called `name`, in eval mode."""
    dfad, output_stride = name.endswith("_dfad"), 16 if name.endswith("_os16") else 8
    mobilenet = DfadMobileNet if dfad else CmiMobileNet
    backbone = (ResNet50 if "resnet50" in name else mobilenet)(channels, output_stride)
    rates = (12, 24, 32) if dfad else (6, 12, 18) if output_stride == 16 else (12, 24, 36)
    return DeepLab(backbone, rates, classes, dfad).eval()


def logits(name, size):
    """The model's answer to the recorded images, float32 [2, h, w, classes], thinned."""
    model = by_name(name, zoo_weights.CLASSES, zoo_weights.CHANNELS)
    state = {key: torch.from_numpy(zoo_weights.array(key, value.shape)) for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    images = torch.from_numpy(zoo_weights.images(size).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        return deeplab_weights.thinned(model(images).numpy().transpose(0, 2, 3, 1))


def record():
    """Write the logits and the keys of every definition beside this file, for tests without PyTorch."""
    found = {}
    for name in deeplab_weights.NAMES:
        keys = zoo_weights.digest(by_name(name, zoo_weights.CLASSES, zoo_weights.CHANNELS).state_dict())
        found[name] = {"keys": keys, "logits": logits(name, deeplab_weights.SIZE).tolist()}
    deeplab_weights.RECORD.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    record()
