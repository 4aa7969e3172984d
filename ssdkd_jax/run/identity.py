"""What a run is: its settings and its teacher. A folder holds one run; another one is refused, never mixed in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ssdkd_jax import build, settings
from ssdkd_jax.engine import checkpoint, parallel
from ssdkd_jax.engine.trees import named_leaves
from ssdkd_jax.errors import InputError
from ssdkd_jax.types import Inputs, Variables

if TYPE_CHECKING:
    from ml_collections import ConfigDict

Settings = dict[str, Any]
ROUNDS = "schedule.rounds"
HANDED = "student.network"  # a digest of a student that was handed over
MAY_CHANGE: Mapping[str, str] = {  # when a run goes on
    ROUNDS: "upward; the schedules of the learning rate and of beta are then those of the longer run",
    "schedule.evaluate_every": "when the student is evaluated",
    "schedule.checkpoint_seconds": "when it is saved",
    "schedule.max_skipped": "when the run gives up",
    "yardstick_steps": "measured after the student is saved",
    "measure_unit": "measured after the student is saved",
    "batch_per_device": "the global batches count, and so may the number of devices change",
    "data.folder": "where the same images lie",
    "teacher.checkpoint": "where the same weights lie",
}
OF_TEACHER = ("seed", "compute", "data.name", "data.crop", "task.name")
OUTPUTS = (
    "summary.json",
    "student",
    "student.safetensors",
    "synthetic.png",
    "histograms.png",
    "shown.npz",
    "accuracy.png",
)


def of_run(config: ConfigDict) -> Settings:
    """The settings that decide the student of a run, by dotted name; what its teacher is, the digest tells.

    Args:
        config: with global batches, see `build.for_devices`.
    """
    config = build.resolved(config)
    values = settings.flat(config)
    config.yardstick_steps = 0  # what the yardstick reads does not decide the student
    read = build.choices(config, classes=2).reader.read_fields - (MAY_CHANGE.keys() - {ROUNDS})
    return {name: values[name] for name in sorted(read) if not name.startswith("teacher.")}


def of(config: ConfigDict, teacher: Variables, inputs: Inputs, student: str = "") -> dict[str, Any]:
    """What a run is, for its checkpoint: its settings, and the digest of its teacher.

    Args:
        config: with global batches, see `build.for_devices`.
        inputs: of the teacher; its normalisation is part of it.
        student: what tells a network that was handed over from others; '' where the config names it.
    """
    found = of_run(config) | ({HANDED: student} if student else {})
    moments = {name: np.float32(getattr(inputs, name)) for name in ("mean", "std")}
    return {"settings": found, "teacher": digest({**teacher, "inputs": moments})}


def program(function: Callable, *arguments: Any) -> str:
    """SHA-256 of what a function computes of arguments of these shapes, constants included; alike on every machine."""
    closed = jax.make_jaxpr(jax.vmap(function, axis_name=parallel.AXIS))(*arguments)
    total = hashlib.sha256(re.sub("0x[0-9a-f]+", "", str(closed.jaxpr)).encode())
    for constant in closed.consts:
        total.update(np.asarray(constant).tobytes())
    return total.hexdigest()


def of_teacher(config: ConfigDict) -> Settings:
    """The settings that decide a teacher that is trained, by dotted name.

    Args:
        config: with global batches, see `build.for_devices`.
    """
    values = settings.flat(config)
    names = (name for name in values if name.startswith("teacher.") or name in OF_TEACHER)
    return {name: values[name] for name in names if name not in MAY_CHANGE}


def digest(variables: Variables) -> str:
    """SHA-256 of the names, types, shapes and bytes of a network's arrays."""
    total = hashlib.sha256()
    for name, leaf in sorted(named_leaves(dict(variables)).items()):
        array = np.ascontiguousarray(leaf)
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(array.reshape(-1).view(np.uint8))
    return total.hexdigest()


def check(found: Mapping[str, Any] | None, wanted: Settings, folder: Path, remedy: str) -> None:
    """Refuse what was saved under other settings.

    Args:
        found: the settings that are saved in `folder`; None where what is saved does not say.
        remedy: what the user can do instead.

    Raises:
        InputError: which tells each setting that differs with both its values.
    """
    if found is None:
        raise InputError(f"What '{folder}' holds does not say under which settings it was made; {remedy}.")
    if differ := differences(found, wanted):
        raise InputError(f"'{folder}' holds another run ({', '.join(differ)}); {remedy}.")


def differences(found: Mapping[str, Any], wanted: Settings) -> list[str]:
    """The settings that differ, each with both its values."""
    return [
        f"{name} = {found.get(name, 'not set')} there and {wanted.get(name, 'not set')} here"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]


def check_run(found: Mapping[str, Any] | None, wanted: Settings, workdir: Path) -> None:
    """As `check`, for a run that goes on and may be longer than it was planned."""
    if found and ROUNDS in found and found[ROUNDS] <= wanted[ROUNDS]:
        found = {**found, ROUNDS: wanted[ROUNDS]}
    check(found, wanted, workdir, "choose another workdir, or go on with the settings and the teacher of that run")


def check_folder(workdir: Path, config: ConfigDict) -> None:
    """Refuse a workdir of another run, before anything is read, trained or written; its networks are not looked at.

    Args:
        config: with global batches, see `build.for_devices`.

    Raises:
        InputError: where it holds a run of other settings, or files of the names that a run writes and no run.
    """
    newest = checkpoint.newest_whole(workdir / "checkpoints")
    if newest:
        found = newest.note.get("settings")
        found = found and {name: value for name, value in found.items() if name != HANDED}
        check_run(found, of_run(config), workdir)
    elif theirs := [name for name in OUTPUTS if (workdir / name).exists()]:
        raise InputError(f"'{workdir}' holds '{theirs[0]}' but no run that made it; choose another workdir.")
