"""A PyTorch network trained on a data set, quickly on two cores: bfloat16, a rate that rises and falls, few passes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from protocol import Recipe
from torch import Tensor, nn

from ssdkd_jax.data import Dataset

BATCH, AT_ONCE = 128, 500
LEAST = 8  # steps, of which some raise the rate and some lower it
RISE, MOMENTUM = 0.25, 0.9


class Normalised(NamedTuple):
    """What brings uint8 images to a network: mean and standard deviation of each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, D] -> normalised [B, D, H, W], channels last in memory."""
        scaled = (images.float() / 255 - torch.tensor(self.mean)) / torch.tensor(self.std)
        return scaled.permute(0, 3, 1, 2)


def normalisation(recipe: Recipe, dataset: Dataset) -> Normalised:
    """That of a recipe, or of the data set where it says none."""
    channels = dataset.train_images.shape[-1]
    of_data = zip((recipe.mean, recipe.std), (dataset.mean, dataset.std), strict=True)
    return Normalised(*(moments if given is None else (given,) * channels for given, moments in of_data))


def train(module: nn.Module, dataset: Dataset, recipe: Recipe, key: int) -> nn.Module:
    """Train a module in place, to the end of its recipe; it is left in eval mode.

    Args:
        key: of the random numbers: order, places, mirroring. Dropout draws from PyTorch's own generator.
    """
    images, labels = torch.tensor(dataset.train_images), torch.tensor(dataset.train_labels).long()
    normalise, steps = normalisation(recipe, dataset), max(LEAST, recipe.seen // BATCH)
    module = module.to(memory_format=torch.channels_last).train()
    optimiser, schedule = optimisation(module, recipe, steps)
    generator = torch.Generator().manual_seed(key)
    for at in batches(len(images), steps, generator):
        inputs = normalise(augmented(images[at], recipe, generator))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = module(inputs)
        loss = F.cross_entropy(logits.float(), labels[at], label_smoothing=recipe.smoothing)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return module.eval()


def optimisation(
    module: nn.Module, recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.OneCycleLR]:
    """The optimiser of a recipe, and the schedule of its rate."""
    weights, decay = module.parameters(), recipe.weight_decay
    if recipe.optimiser == "adam":
        optimiser = torch.optim.AdamW(weights, recipe.lr, weight_decay=decay)
    else:
        optimiser = torch.optim.SGD(weights, recipe.lr, MOMENTUM, weight_decay=decay, nesterov=True)
    return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.lr, steps, pct_start=RISE)


def batches(count: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """The places of so many batches of images, pass after pass."""
    size = min(BATCH, count)
    while steps > 0:
        whole = torch.randperm(count, generator=generator).split(size)[: count // size][:steps]
        yield from whole
        steps -= len(whole)


def augmented(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Images [B, H, W, D], each mirrored or not, all of them moved by as much over a black border."""
    if recipe.flip:
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(2), images)
    if recipe.shift:
        down, right = torch.randint(2 * recipe.shift + 1, (2,), generator=generator).tolist()
        padded = F.pad(images, (0, 0, *(recipe.shift,) * 4))
        images = padded[:, down : down + images.shape[1], right : right + images.shape[2]]
    return images


def accuracy(module: nn.Module, images: np.ndarray, labels: np.ndarray, normalise: Normalised) -> float:
    """How often a module in eval mode is right, in [0, 1]."""
    with torch.no_grad():
        answers = [module(normalise(part)).argmax(1) for part in torch.tensor(images).split(AT_ONCE)]
    return float((torch.cat(answers).numpy() == labels).mean())
