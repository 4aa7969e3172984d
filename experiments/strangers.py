"""Two networks of digits that strangers trained, and real digits to judge their students by.

Both are PyTorch state dicts of the PyPI package ccexam 1.0.0 (MIT): usps_cnn.pth for 16x16 images, with BatchNorm, and
mnist_cnn.pth for 28x28, without. The digits are scikit-learn's, which neither has seen, brought to their size.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

import ssdkd_jax
from ssdkd_jax import data


class Kind(NamedTuple):
    """One of the two.

    Attributes:
        norm: whether it has BatchNorm, and Dropout with it.
        mean, std: of its normalisation.
        side: to which a digit is resized.
        padding: pixels around it.
        stretched: whether its contrast is.
    """

    norm: bool
    mean: float
    std: float
    side: int
    padding: int
    stretched: bool


NETWORKS = {
    "usps_cnn": Kind(True, 0.2471, 0.2994, 14, 1, False),
    "mnist_cnn": Kind(False, 0.1307, 0.3081, 18, 5, True),
}


def digits(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Scikit-learn's 1,797 digits as this network takes them: uint8 [M, H, W, 1], and their labels."""
    kind, loaded = NETWORKS[name], data.load("digits")
    raw = np.concatenate([loaded.train_images, loaded.test_images])[:, ::2, ::2, 0]
    size = (kind.side, kind.side)
    resized = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in raw]
    images = np.pad(np.stack(resized), ((0, 0), *((kind.padding, kind.padding),) * 2))
    if kind.stretched:
        images = np.round(np.clip((images / 255 - 0.2) * 2, 0, 1) * 255).astype(np.uint8)
    return images[..., None], np.concatenate([loaded.train_labels, loaded.test_labels])


def teacher(folder: Path, name: str) -> ssdkd_jax.Teacher:
    """The network of this name, from the folder of their files."""
    import torch
    from torch import nn

    kind = NETWORKS[name]
    side = kind.side + 2 * kind.padding

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        norms = [nn.BatchNorm2d(outputs)] if kind.norm else []
        return [nn.Conv2d(inputs, outputs, 3, padding=1), *norms, nn.ReLU(), nn.MaxPool2d(2)]

    drop = [nn.Dropout(0.3)] if kind.norm else []
    maps = [*block(1, 32), *block(32, 64), *drop, nn.Flatten()]
    module = nn.Sequential(*maps, nn.Linear(64 * (side // 4) ** 2, 128), nn.ReLU(), *drop, nn.Linear(128, 10))
    state = torch.load(folder / f"{name}.pth", weights_only=True)
    module.load_state_dict(dict(zip(module.state_dict(), state.values(), strict=True)))
    return ssdkd_jax.Teacher.from_torch_module(module, image_shape=(side, side, 1), mean=kind.mean, std=kind.std)
