"""Random keys: every use has a stage of its own, and every key is used once.

A key is drawn from, or split, or folded with the numbers of a series, and only one of these: a draw may split its
key, and `fold_in(key, i)` is `split(key, n)[i]`, so that two uses of one key can meet in the same numbers.
"""

from __future__ import annotations

import enum

import jax

from ssdkd_jax.types import Array, Key


class Stage(enum.IntEnum):
    """What a run draws random numbers for."""

    TEACHER_INIT = enum.auto()
    TEACHER_TRAINING = enum.auto()
    YARDSTICK_INIT = enum.auto()
    YARDSTICK_TRAINING = enum.auto()
    METHOD_INIT = enum.auto()
    STUDENT_INIT = enum.auto()
    SYNTHESIS = enum.auto()
    STORAGE = enum.auto()
    DISTILLATION = enum.auto()
    CALIBRATION = enum.auto()
    PREVIEW = enum.auto()
    LAYERS = enum.auto()
    FRESH = enum.auto()
    START = enum.auto()


def of_seed(seed: int | Array) -> Array:
    """The key data of a run, from which come the keys of its stages and nothing else."""
    return jax.random.key_data(jax.random.key(seed))


def of_stage(data: Array, stage: Stage, step: Array | int = 0) -> Key:
    """The key of step `step` of a stage: resuming needs no other random state.

    Args:
        data: as of `of_seed`.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(data), stage), step)
