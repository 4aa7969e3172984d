"""The same run with another method: `configs/digits.py:dafl`.

A file of configs/ says what the data, the teacher and the student are; a preset, which stands in the method's file,
says what its authors, or its public reimplementation, chose. The number of student steps stays, and so does the
student's optimiser, the same for every method. docs/presets.md has the presets, their sources and what is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdkd_jax import build, methods, settings

if TYPE_CHECKING:
    from ml_collections import ConfigDict

PRESETS = methods.presets()
ROUNDS = 5


def check(name: str) -> None:
    """Raise ValueError, with the nearest name, where there is no such preset."""
    settings.chosen(PRESETS, "method", name)


def apply(config: ConfigDict, name: str) -> ConfigDict:
    """`config` with the preset `name` in the place of SSD-KD, for as many student steps.

    Methods whose rounds are long get at least `ROUNDS` of them, and shorter ones.

    Raises:
        ValueError: for an unknown name, with the nearest one.
    """
    preset = settings.chosen(PRESETS, "method", name)
    steps = build.student_steps(config)
    config.update_from_flattened_dict(preset)
    if "schedule.distill_steps" in preset:
        config.schedule.distill_steps = max(1, min(config.schedule.distill_steps, steps // ROUNDS))
    config.schedule.rounds = config.schedule.warmup + -(-steps // config.schedule.distill_steps)
    return config
