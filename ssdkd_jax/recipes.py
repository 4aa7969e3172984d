"""Recipes that several configs share: how a kind of teacher is trained and its students are taught."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from ssdkd_jax import config as defaults
from ssdkd_jax import presets
from ssdkd_jax.errors import InputError

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def fashion_mnist(teacher: str, student: str) -> ConfigDict:
    """Fashion-MNIST: the teacher's recipe, its hints, a buffer of 10 % of the real set.

    Args:
        teacher, student: of `models.NAMES`.
    """
    config = defaults.default()
    config.data.name = "fashion_mnist"
    config.teacher.update(model=teacher, epochs=8, batch=128, lr=0.2, flip=True)
    config.student.update(model=student, batch=128, temperature=20.0, lr=0.2, weight_decay=1e-4, regression=10.0)
    config.synthesis.update(
        batch=128, inner_steps=12, width=32, latent=256, class_code=2.0, adv=1.0, flip=True, shift=2
    )
    config.buffer.update(size=6000, half_life=24.0)
    config.views.update(count=0, mixup=0.5)
    config.sampler.name = "uniform"
    config.yardstick_steps = 0
    return config


PAIRS = ("resnet34_resnet18", "vgg11_resnet18", "wrn40_2_wrn16_1", "wrn40_2_wrn40_1", "wrn40_2_wrn16_2")


def cifar(name: str, pair: str) -> ConfigDict:
    """A pair of the paper on CIFAR, a buffer of 5,000 (10 % of the real set).

    The teacher's recipe is the one that reaches the accuracy published for this family: weight
    decay 5e-4 and 200 epochs.

    Args:
        name: 'cifar10' or 'cifar100'.
        pair: TEACHER_STUDENT, one of `PAIRS`, or TEACHER_STUDENT,METHOD with one of `presets.PRESETS`.

    Raises:
        ValueError: for another pair or method, with the nearest one.
    """
    pair, _, method = pair.partition(",")
    if pair not in PAIRS:
        near = difflib.get_close_matches(pair, PAIRS, n=1, cutoff=0)[0]
        raise InputError(f"Unknown pair '{pair}'; did you mean '{near}'? Known: {', '.join(PAIRS)}.")
    teacher, student = re.findall(r"wrn\d+_\d+|[a-z]+\d+", pair)
    config = defaults.default()
    config.data.name = name
    config.teacher.update(model=teacher, epochs=200, batch=128, lr=0.1, weight_decay=5e-4, flip=True, shift=4)
    config.student.update(model=student, batch=256)
    config.synthesis.update(batch=256, inner_steps=5, latent=256)
    config.buffer.size = 5000
    config.views.shift = 4
    config.modulation.difficulty = True
    config.schedule.update(rounds=220, warmup=20, distill_steps=200, evaluate_every=10)
    return presets.apply(config, method or "ssdkd")
