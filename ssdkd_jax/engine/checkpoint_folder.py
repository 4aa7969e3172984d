"""The checkpoints of a folder: which there are, and how one comes and goes in one rename."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ssdkd_jax.engine import files, manifest

NAME = re.compile(r"step_([0-9]{8,18})(?:\.([0-9]{1,9}))?")
NAME_OF_OLD = re.compile(r"([0-9]{8,18})\.json")
PARTIAL = re.compile(r"\.ssdkd_jax_[0-9a-f]{16}")
log = logging.getLogger(__name__)


class Stored(NamedTuple):
    """A checkpoint on disk; they are in the order in which they were saved.

    Attributes:
        step: its number.
        edition: how many of that number were there before; -1 for one of version 0.1.
        path: its folder.
    """

    step: int
    edition: int
    path: Path


def found(folder: str | Path) -> list[Stored]:
    """All checkpoints, damaged ones included, the newest last."""
    folder, named = Path(folder).absolute(), []
    for name in os.listdir(folder) if folder.is_dir() else ():
        if match := NAME.fullmatch(name):
            named.append(Stored(int(match[1]), int(match[2] or 0), folder / name))
        elif (match := NAME_OF_OLD.fullmatch(name)) and (folder / match[1]).is_dir():
            named.append(Stored(int(match[1]), -1, folder / match[1]))
    return sorted(stored for stored in named if manifest.is_ours(stored.path))


@contextlib.contextmanager
def made(partial: Path) -> Iterator[None]:
    """A marked folder to write into, locked against other processes; what is left of it at the end is deleted."""
    files.make_folder(partial.parent)
    _sweep(partial.parent)
    partial.mkdir()
    try:
        with open(files.edit(partial / manifest.MARK), "wb") as mark:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mark.write(manifest.MARK_TEXT)
            mark.flush()
            yield
    finally:
        _delete(partial)


def partial_name(random_bytes: bytes) -> str:
    """Of a folder that is not yet, or no longer, a checkpoint.

    Args:
        random_bytes: eight.
    """
    return f".ssdkd_jax_{random_bytes.hex()}"


def _sweep(folder: Path) -> None:
    """Delete what saves that were cut short have left behind, but not while another process writes there."""
    for entry in folder.iterdir():
        if PARTIAL.fullmatch(entry.name) and manifest.is_marked(entry):
            with contextlib.suppress(OSError), open(files.edit(entry / manifest.MARK)) as mark:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _delete(entry)


def _delete(folder: Path) -> None:
    """Delete a folder of ours as far as that goes, its mark last."""
    with contextlib.suppress(OSError):
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == manifest.MARK):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        folder.rmdir()


def publish(partial: Path, step: int, keep: int) -> None:
    """Make what was written a checkpoint, and delete those that it supersedes."""
    files.sync_tree(partial)
    edition = max((stored.edition for stored in found(partial.parent) if stored.step == step), default=-1) + 1
    names = (f"step_{step:08d}" + (f".{number}" if number else "") for number in itertools.count(edition))
    path = next(path for path in map(partial.with_name, names) if not os.path.lexists(path))
    partial.rename(path)
    files.sync(partial.parent)
    every = found(partial.parent)
    kept = [path, *[stored.path for stored in {stored.step: stored for stored in every}.values()][-keep:]]
    for stored in every:
        if stored.path not in kept:
            _discard(stored.path)


def _discard(path: Path) -> None:
    """Delete a checkpoint, at once for whoever looks; one that holds more or other than was saved stays."""
    try:
        if set(manifest.names(path)) - manifest.read(path)["files"].keys():
            raise manifest.Damaged(f"{path} holds files that were not there when the checkpoint was written.")
    except manifest.Damaged as error:
        log.warning("%s It is superseded, but not deleted.", error)
        return
    gone = path.with_name(partial_name(os.urandom(8)))
    with contextlib.suppress(OSError):
        if manifest.location(path).parent != path:
            manifest.location(path).unlink()
        path.rename(gone)
        _delete(gone)
