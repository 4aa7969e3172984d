"""What the recorded logits of DeepLabV3 are of: names, image size and pixels; the weights are `zoo_weights`'."""

import json
from pathlib import Path

RECORD = Path(__file__).with_name("torch_deeplab_logits.json")
NAMES = (
    *("deeplabv3_resnet50", "deeplabv3_resnet50_os16", "deeplabv3_resnet50_dfad"),
    *("deeplabv3_mobilenet", "deeplabv3_mobilenet_os16", "deeplabv3_mobilenet_dfad"),
)
SIZE = 136  # 17 features a side at stride 8, which the smallest rate of the pyramid reaches across


def thinned(logits):
    """Every sixteenth pixel of [B, H, W, C], from the fourth on."""
    return logits[:, 3::16, 3::16]


def recorded(name):
    """{'keys': digest, 'logits': [2][h][w][classes]} of a definition."""
    return json.loads(RECORD.read_text())[name]
