"""The key layouts of the peers' DeepLabV3 checkpoints, see `torch_layout`.

Both wrap torchvision's backbones, and differ in the head's prefix and in MobileNetV2's keys: CMI cuts the
backbone in two after its fourth feature, DFAD's blocks are flat.
"""

from __future__ import annotations

RESNET = (
    (r"^backbone\.layer(\d)_(\d+)", r"backbone.layer\1.\2"),
    (r"shortcut_conv$", "downsample.0"),
    (r"shortcut_bn$", "downsample.1"),
)
CMI_MOBILENET = (
    (r"^backbone\.stem$", "backbone.low_level_features.0.0"),
    (r"^backbone\.stem_bn$", "backbone.low_level_features.0.1"),
    (r"^backbone\.block([123])\.", r"backbone.low_level_features.\1.conv."),
    (r"^backbone\.block(\d+)\.", r"backbone.high_level_features.\1.conv."),
    (r"features\.1\.conv\.depthwise(_bn)?$", r"features.1.conv.0.depthwise\1"),
    (r"features\.1\.conv\.project$", "features.1.conv.1"),
    (r"features\.1\.conv\.project_bn$", "features.1.conv.2"),
    (r"\.conv\.expand$", ".conv.0.0"),
    (r"\.conv\.expand_bn$", ".conv.0.1"),
    (r"\.conv\.0\.depthwise$", ".conv.0.0"),
    (r"\.conv\.0\.depthwise_bn$", ".conv.0.1"),
    (r"\.conv\.depthwise$", ".conv.1.0"),
    (r"\.conv\.depthwise_bn$", ".conv.1.1"),
    (r"\.conv\.project$", ".conv.2"),
    (r"\.conv\.project_bn$", ".conv.3"),
)
DFAD_MOBILENET = (
    (r"^backbone\.stem$", "backbone.features.0.0"),
    (r"^backbone\.stem_bn$", "backbone.features.0.1"),
    (r"^backbone\.block1\.depthwise$", "backbone.features.1.conv.0"),
    (r"^backbone\.block1\.depthwise_bn$", "backbone.features.1.conv.1"),
    (r"^backbone\.block1\.project$", "backbone.features.1.conv.3"),
    (r"^backbone\.block1\.project_bn$", "backbone.features.1.conv.4"),
    (r"^backbone\.block(\d+)\.expand$", r"backbone.features.\1.conv.0"),
    (r"^backbone\.block(\d+)\.expand_bn$", r"backbone.features.\1.conv.1"),
    (r"^backbone\.block(\d+)\.depthwise$", r"backbone.features.\1.conv.3"),
    (r"^backbone\.block(\d+)\.depthwise_bn$", r"backbone.features.\1.conv.4"),
    (r"^backbone\.block(\d+)\.project$", r"backbone.features.\1.conv.6"),
    (r"^backbone\.block(\d+)\.project_bn$", r"backbone.features.\1.conv.7"),
)


CMI_HEAD, DFAD_HEAD = "classifier.classifier", "classifier"


def head(model: str) -> str:
    """The prefix of the head's keys."""
    return DFAD_HEAD if model.endswith("_dfad") else CMI_HEAD


def _head(prefix: str) -> tuple[tuple[str, str], ...]:
    return (
        (r"^pyramid\.conv([0-3])$", rf"{prefix}.0.convs.\1.0"),
        (r"^pyramid\.bn([0-3])$", rf"{prefix}.0.convs.\1.1"),
        (r"^pyramid\.conv4$", f"{prefix}.0.convs.4.1"),
        (r"^pyramid\.bn4$", f"{prefix}.0.convs.4.2"),
        (r"^pyramid\.project$", f"{prefix}.0.project.0"),
        (r"^pyramid\.project_bn$", f"{prefix}.0.project.1"),
        (r"^head$", f"{prefix}.1"),
        (r"^head_bn$", f"{prefix}.2"),
        (r"^classifier$", f"{prefix}.4"),
    )


BACKBONES = {
    "deeplabv3_resnet": RESNET,
    "deeplabv3_resnet50_dfad": RESNET,
    "deeplabv3_mobilenet": CMI_MOBILENET,
    "deeplabv3_mobilenet_dfad": DFAD_MOBILENET,
}
LAYOUTS = {name: (*backbone, *_head(head(name))) for name, backbone in BACKBONES.items()}
STEMS = {
    "deeplabv3_resnet": "backbone.conv1.weight",
    "deeplabv3_resnet50_dfad": "backbone.conv1.weight",
    "deeplabv3_mobilenet": "backbone.low_level_features.0.0.weight",
    "deeplabv3_mobilenet_dfad": "backbone.features.0.0.weight",
}
