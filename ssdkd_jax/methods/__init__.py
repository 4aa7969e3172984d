"""Data-free methods: a file each, found by its name.

A method's file holds

    Settings   what it reads of a config: a record of the records of the stations that it uses
    PRESETS    {name: {dotted field: value}}, what its authors, or its public reimplementation, chose
    make       (Settings, Problem) -> Method
    derived    optional, config -> {field of synthesis: value}: what follows from other fields where it is None
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ssdkd_jax import settings
from ssdkd_jax.hints import Hint
from ssdkd_jax.types import Inputs, Network, Task

LOGITS: Mapping[str, Any] = {"student.attention": 0.0, "student.regression": 0.0}  # a student without hints


class Problem(NamedTuple):
    """What a method is built for.

    Attributes:
        inputs: image shape, classes, normalisation.
        task: what is learnt.
        teacher, student: the two networks.
        has_batch_norm: whether the teacher has any.
        hint: what the student is shown of the teacher beside its logits.
        student_batch: the student's global batch.
        student_steps: of the whole run.
        warmup: rounds that only make images.
        rounds: in all.
        compute: as of `models.bind`.
        axis: pmap axis name, or None.
        images: uint8 [M, H, W, D], for 'given'; None for all others.
    """

    inputs: Inputs
    task: Task
    teacher: Network
    student: Network
    has_batch_norm: bool
    hint: Hint
    student_batch: int
    student_steps: int
    warmup: int
    rounds: int
    compute: str
    axis: str | None
    images: np.ndarray | None = None


def modules() -> dict[str, ModuleType]:
    """The methods' files by name."""
    files = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    return {file.__name__.rpartition(".")[2]: file for file in files if hasattr(file, "PRESETS")}


def by_name(name: str) -> ModuleType:
    """The file of a method.

    Raises:
        ValueError: for an unknown name, with the nearest one.
    """
    return settings.chosen(modules(), "method.name", name)


def presets() -> dict[str, Mapping[str, Any]]:
    """Preset -> dotted field -> value, of all methods; each names its method."""
    return {
        preset: {"method.name": name, **values}
        for name, file in sorted(modules().items(), key=lambda item: getattr(item[1], "ORDER", 0))
        for preset, values in file.PRESETS.items()
    }
