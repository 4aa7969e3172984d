"""Tasks: what a network answers, and how two answers are compared, one number per image; a file each, found by name.

A task's file holds `Settings`, what it reads of a config, and `make`: (classes, temperature, **its fields) -> Task.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from types import ModuleType

from ssdkd_jax import settings
from ssdkd_jax.settings import setting
from ssdkd_jax.types import Task


@settings.section("task")
class Name:
    """Which task."""

    name: str = setting("classification", "or segmentation", choices=("classification", "segmentation"))


def files() -> dict[str, ModuleType]:
    """The tasks' files by name."""
    return {info.name: importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)}


def records() -> tuple[type, ...]:
    """The settings of every task."""
    return tuple(file.Settings for file in files().values())


def from_config(reader: settings.Reader, classes: int, temperature: float) -> Task:
    """The task that a config names.

    Raises:
        ValueError: for an unknown name.
    """
    file = settings.chosen(files(), "task.name", reader(Name).name)
    return file.make(classes, temperature, **dataclasses.asdict(reader(file.Settings)))
