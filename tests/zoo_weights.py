"""Weights that follow from a PyTorch key and a shape alone, and the logits that PyTorch gave with them."""

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np

RECORD = Path(__file__).with_name("torch_logits.json")
NAMES = (
    *("resnet18", "resnet34", "resnet50", "vgg8", "vgg11", "vgg13", "mobilenetv2"),
    *("wrn16_1", "wrn16_2", "wrn40_1", "wrn40_2"),
)
CLASSES, CHANNELS, SIZES = 7, 2, (32, 64)


def array(key, shape):
    """A value of its own for every weight and running statistic."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    leaf = key.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.asarray(5, np.int64)
    if len(shape) > 1:
        return rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
    low, high = {"weight": (0.5, 1.3), "running_var": (0.6, 1.4)}.get(leaf, (-0.3, 0.3))
    return rng.uniform(low, high, shape).astype(np.float32)


def images(size):
    """Two different images of 4x4 patches, [2, size, size, CHANNELS]."""
    coarse = np.random.default_rng(size).normal(0, 2, (2, 4, 4, CHANNELS)).astype(np.float32)
    return coarse.repeat(size // 4, 1).repeat(size // 4, 2)


def digest(state):
    """Of the keys and shapes of a state dict."""
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in state.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def recorded(name):
    """{'keys': digest, 'logits': {size: [2][CLASSES]}} of a definition."""
    return json.loads(RECORD.read_text())[name]
