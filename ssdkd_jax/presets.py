"""What each method changes of a configuration: the settings that its authors, or its public reimplementation, chose.

A file of configs/ says what the data, the teacher and the student are; a preset makes of it the same run with another
method: `configs/digits.py:dafl`. The number of student steps stays, and methods of others make images in batches of
the student's size, as their codes do. Learning rates of 1e-3 are ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

LOGITS = {"student.attention": 0.0, "student.regression": 0.0}
GENERATIVE = LOGITS | {
    "method.name": "generative",
    "synthesis.bn": 0.0,
    "synthesis.oh": 0.0,
    "synthesis.adv": 0.0,
    "synthesis.inner_steps": 1,
    "synthesis.lr_generator": 1e-3,
    "student.temperature": 1.0,
    "schedule.distill_steps": 5,
    "schedule.warmup": 0,
}
BANK = LOGITS | {"views.count": 0, "student.temperature": 20.0}
FAST = BANK | {
    "method.name": "fast_dfkd",
    "synthesis.start": "first_order",
    "synthesis.bn": 10.0,
    "synthesis.bn_past": 0.9,
}


def _fast(steps: int, lr_latent: float, lr_generator: float) -> dict[str, Any]:
    return FAST | {
        "synthesis.inner_steps": steps,
        "synthesis.lr_latent": lr_latent,
        "synthesis.lr_generator": lr_generator,
        "synthesis.lr_meta": lr_generator * steps,
    }


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "ssdkd": {},
    "ssdkd_logits": LOGITS,
    "fast_dfkd_2": _fast(2, 0.015, 5e-3),
    "fast_dfkd_5": _fast(5, 0.01, 3e-3),
    "fast_dfkd_10": _fast(10, 0.01, 2e-3),
    "dafl": GENERATIVE
    | {"synthesis.oh": 1.0, "synthesis.latent": 512, "method.balance": 20.0, "method.activation": 1e-3},
    "zskt": GENERATIVE | {"synthesis.adv": 1.0, "student.attention": 250.0, "schedule.distill_steps": 10},
    "dfad": GENERATIVE | {"synthesis.adv": 1.0, "method.divergence": "l1"},
    "dfq": GENERATIVE
    | {
        "synthesis.bn": 1.0,
        "synthesis.oh": 1.0,
        "synthesis.adv": 1.0,
        "method.balance": 20.0,
        "schedule.distill_steps": 10,
    },
    "deepinversion": BANK
    | {
        "method.name": "deepinversion",
        "synthesis.bn": 10.0,
        "synthesis.oh": 1.0,
        "synthesis.adv": 1.0,
        "synthesis.inner_steps": 1000,
        "schedule.distill_steps": 400,
        "schedule.warmup": 0,
    },
    "cmi": BANK
    | {
        "method.name": "cmi",
        "synthesis.bn": 1.0,
        "synthesis.oh": 1.0,
        "synthesis.adv": 0.5,
        "synthesis.inner_steps": 200,
        "synthesis.lr_generator": 1e-3,
        "synthesis.lr_latent": 1e-3,
        "schedule.distill_steps": 400,
        "schedule.warmup": 0,
    },
    "real": {"method.name": "given", "method.given": -1, "schedule.warmup": 0, "views.count": 0},
    "real_small": {"method.name": "given", "method.given": 0, "schedule.warmup": 0, "views.count": 0},
}
ROUNDS = 5
FAST_WEIGHTS = {"resnet": (1.33, 0.5), "vgg": (1.0, 0.5)}


def apply(config: ConfigDict, name: str) -> ConfigDict:
    """`config` with the method `name` in the place of SSD-KD, for as many student steps.

    Methods whose rounds are long get at least `ROUNDS` of them, and shorter ones.

    Raises:
        ValueError: for an unknown name, with the nearest one.
    """
    check(name)
    chosen = PRESETS[name]
    steps = (config.schedule.rounds - config.schedule.warmup) * config.schedule.distill_steps
    config.update_from_flattened_dict(chosen)
    config.measure_unit = config.measure_unit and config.method.name == "ssdkd"
    if config.method.name != "ssdkd":
        config.synthesis.batch = config.student.batch
    if config.method.name == "fast_dfkd":
        config.synthesis.adv, config.synthesis.oh = fast_weights(config.teacher.model)
    if config.method.name in ("deepinversion", "cmi", "fast_dfkd"):
        config.synthesis.update(flip=config.teacher.flip, shift=config.teacher.shift)
    if "schedule.distill_steps" in chosen:
        config.schedule.distill_steps = max(1, min(config.schedule.distill_steps, steps // ROUNDS))
    config.schedule.rounds = config.schedule.warmup + -(-steps // config.schedule.distill_steps)
    return config


def check(name: str) -> None:
    """That there is such a method.

    Raises:
        ValueError: where not, with the nearest one.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0)[0]
        raise ValueError(f"Unknown method '{name}'; did you mean '{near}'? Known: {', '.join(PRESETS)}.")


def fast_weights(teacher: str) -> tuple[float, float]:
    """Fast-DFKD's weights (adv, oh), which go by the teacher's family."""
    return next((weights for family, weights in FAST_WEIGHTS.items() if teacher.startswith(family)), (1.1, 0.4))
