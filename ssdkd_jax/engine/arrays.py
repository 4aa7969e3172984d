"""Named arrays on disk, as orbax writes them below a folder."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from ssdkd_jax.engine import files, hosts, manifest
from ssdkd_jax.engine.manifest import Damaged
from ssdkd_jax.errors import InputError

ARRAYS = "arrays"


def begin_writing(folder: Path, arrays: dict[str, Any]) -> Callable[[], None]:
    """Begin to write a copy of arrays below an absolute folder; with several hosts, each its own rows.

    Returns:
        What waits for the end, of all hosts; the first then reads back names, shapes and dtypes. Called once, in any
        thread.

    Raises:
        OSError: when the disk is full or not writable; or what is returned does.
    """
    with contextlib.ExitStack() as opened, _disk_errors(folder.parent):
        place = opened.enter_context(files.plain_path(folder)) / ARRAYS
        writer = opened.enter_context(ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler()))
        writer.save(place, arrays)
        under_way = opened.pop_all()

    def end() -> None:
        with under_way, _disk_errors(folder.parent):
            writer.wait_until_finished()
            found = _described(writer, place) if hosts.is_first() else None
        if found is not None:
            _check(found, arrays, folder.parent)

    return end


def read(path: Path, most: float = math.inf) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint by their dotted names, as they were saved.

    Args:
        most: numbers that they may hold together; no more are allocated.

    Raises:
        Damaged: where orbax cannot read them.
        InputError: where they hold more.
    """
    try:
        with _arrays(path) as place, ocp.PyTreeCheckpointer() as reader:
            names = reader.metadata(place).item_metadata.tree
            declared = sum(np.prod(leaf.shape, dtype=float) for leaf in names.values())
            if declared > most:
                raise InputError(f"{path} is of another model or configuration: it holds {declared:.0f} numbers.")
            return reader.restore(
                place, restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
            )
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, FileNotFoundError) as error:
        raise Damaged(f"{path} holds no arrays that orbax can read ({type(error).__name__}).") from error


def _described(reader: ocp.Checkpointer, place: Path) -> dict[str, tuple]:
    """Shape and dtype of each array that is there."""
    found = reader.metadata(place).item_metadata
    return {name: (tuple(leaf.shape), leaf.dtype) for name, leaf in (found.tree if found else {}).items()}


def _check(found: dict[str, tuple], arrays: dict[str, Any], folder: Path) -> None:
    """Raise Damaged where an array is not there as it was given."""
    for name, leaf in arrays.items():
        if found.get(name) != (np.shape(leaf), leaf.dtype):
            raise Damaged(
                f"What was written to {folder} reads back otherwise: '{name}' is {found.get(name)} instead of "
                f"{(np.shape(leaf), leaf.dtype)}; choose another folder."
            )


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Tell an OSError of tensorstore, which puts its errno into the text of a ValueError, as one."""
    try:
        yield
    except ValueError as error:
        raise _os_error(error, path) from error


def _os_error(error: ValueError, path: Path) -> Exception:
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return OSError(int(code.group(1)), os.strerror(int(code.group(1))), str(path)) if code else error


@contextlib.contextmanager
def _arrays(path: Path) -> Iterator[Path]:
    """Where orbax finds the arrays of a checkpoint."""
    inside = manifest.location(path).parent == path
    with files.plain_path(Path(path).absolute()) as place:
        yield place / ARRAYS if inside else place
