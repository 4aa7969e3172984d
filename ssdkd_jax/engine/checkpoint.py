"""Saving and restoring any pytree with orbax, whole or not at all.

A checkpoint is a folder `step_NNNNNNNN`: orbax's files below `arrays`, a mark that says whose it is, and a manifest
with the size and digest of each file. All of it is written under a temporary name and read back; one rename then makes
it a checkpoint, and only then are those before it removed. A second checkpoint of a number stands beside the first, as
`step_NNNNNNNN.1`, until the first is gone. What version 0.1 saved, `NNNNNNNN` and `NNNNNNNN.json`, is read alike.

One that is damaged is passed over for the newest whole one. Nothing is deleted for its name: a checkpoint goes where it
holds what its manifest says and nothing else, a temporary folder where it has our mark. Where several hosts run, orbax
writes the rows of each together, into one folder that all of them see; the first host does the rest.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from ssdkd_jax.engine import checkpoint_folder, files, hosts, manifest, parallel
from ssdkd_jax.engine.manifest import Damaged, verify
from ssdkd_jax.errors import InputError
from ssdkd_jax.types import Sharded, named_leaves

__all__ = ["Damaged", "Saver", "newest", "newest_whole", "read", "restore", "save", "steps", "verify"]

ARRAYS = "arrays"
SLACK = 1e6  # numbers beyond twice what is expected that are still read, to say what differs
log = logging.getLogger(__name__)


class Found(NamedTuple):
    """A whole checkpoint: its step, where it is, the note that was saved with it, and what was read of it."""

    step: int
    path: Path
    note: dict[str, Any]
    content: Any


def save(folder: str | Path, step: int, tree: Any, note: dict | None = None, keep: int = 2) -> None:
    """Save `tree` as checkpoint `step`, then delete all but it and the newest `keep`.

    Args:
        folder: may lie below a link, but not be one.
        tree: host arrays; with several hosts, `Sharded` parts as arrays over all devices.
        note: JSON-able, returned by `restore`.

    Raises:
        OSError: when the disk is full or not writable; older checkpoints stay, of this number too.
        InputError: when the folder is a link, or what was written reads back otherwise; older checkpoints stay.
    """
    partial = Path(folder).absolute() / checkpoint_folder.partial_name(_random_bytes())
    with checkpoint_folder.made(partial) if hosts.is_first() else contextlib.nullcontext():
        hosts.wait("checkpoint folder")
        _write(partial, _stored(tree))
        if hosts.is_first():
            manifest.write(partial, note or {})
            checkpoint_folder.publish(partial, step, keep)
    hosts.wait("checkpoint manifest")


class Saver:
    """Saves a state that is on the devices, no more often than every `seconds` but where it must be.

    Args:
        folder: None saves nothing.

    Raises:
        InputError: where the folder is a link.
    """

    def __init__(self, folder: Path | None, seconds: float):
        if folder is not None:
            files.refuse_link(folder)
        self.folder, self.seconds, self.last = folder, seconds, time.monotonic()

    def now_and_then(self, step: int, state: Any, note: dict) -> None:
        """Save `state` where the last time is long enough ago on any host."""
        if hosts.any_of(time.monotonic() - self.last >= self.seconds):
            self.now(step, state, note)

    def now(self, step: int, state: Any, note: dict) -> None:
        """Save `state`."""
        if self.folder is not None:
            save(self.folder, step, parallel.to_save(state), note)
        self.last = time.monotonic()


def steps(folder: str | Path) -> list[int]:
    """Numbers of the checkpoints, ascending; damaged ones included."""
    return sorted({stored.step for stored in checkpoint_folder.found(folder)})


def newest(folder: str | Path) -> Path | None:
    """The newest checkpoint, be it damaged; None where there is none at all."""
    return next((stored.path for stored in reversed(checkpoint_folder.found(folder))), None)


def restore(folder: str | Path, like: Any) -> tuple[int, Any, dict] | None:
    """The newest whole checkpoint as (step, tree, note), or None where there is none at all.

    Args:
        like: a tree of arrays or jax.ShapeDtypeStruct, which gives the structure. A `Sharded` part
            may have other padding than was saved: empty rows are added or taken away at its end.

    Raises:
        ValueError: when checkpoints exist but all are damaged, or when the newest whole one is
            of another structure; the sentence names the first array that differs.
    """
    expected = sum(np.prod(leaf.shape, dtype=float) for leaf in jax.tree.leaves(like))
    found = newest_whole(folder, partial(read, most=2 * expected + SLACK))
    return (found.step, _unflatten(found.content, like, found.path), found.note) if found else None


def newest_whole(folder: str | Path, read: Callable[[Path], Any] = lambda path: None) -> Found | None:
    """The newest whole checkpoint, or None where there is none at all.

    Args:
        read: gives its content; may find it damaged.

    Raises:
        InputError: when checkpoints exist but all are damaged.
    """
    reasons = []
    for stored in reversed(checkpoint_folder.found(folder)):
        try:
            return Found(stored.step, stored.path, verify(stored.path), read(stored.path))
        except Damaged as error:
            reasons.append(str(error))
            log.warning("%s Trying the checkpoint before.", error)
    if reasons:
        raise InputError(f"Every checkpoint in {folder} is damaged; delete that folder to start over. {reasons[0]}")
    return None


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


def _random_bytes() -> bytes:
    """Eight of them, the same on all hosts."""
    return hosts.concatenated(np.frombuffer(os.urandom(8), np.uint8))[:8].tobytes()


def _write(partial: Path, arrays: dict[str, Any]) -> None:
    """Write arrays below a folder; once all hosts have, the first reads back their names, shapes and dtypes."""
    try:
        with files.plain_path(partial) as place, ocp.PyTreeCheckpointer() as writer:
            writer.save(place / ARRAYS, arrays)
            hosts.wait("checkpoint arrays")
            if not hosts.is_first():
                return
            read_back = writer.metadata(place / ARRAYS).item_metadata
    except ValueError as error:  # of tensorstore, which puts the errno into its text
        raise _os_error(error, partial.parent) from error
    found = {name: (tuple(leaf.shape), leaf.dtype) for name, leaf in (read_back.tree if read_back else {}).items()}
    for name, leaf in arrays.items():
        if found.get(name) != (np.shape(leaf), leaf.dtype):
            raise Damaged(
                f"What was written to {partial.parent} reads back otherwise: '{name}' is {found.get(name)} instead of "
                f"{(np.shape(leaf), leaf.dtype)}; choose another folder."
            )


def _os_error(error: ValueError, path: Path) -> Exception:
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return OSError(int(code.group(1)), os.strerror(int(code.group(1))), str(path)) if code else error


@contextlib.contextmanager
def _arrays(path: Path) -> Iterator[Path]:
    """Where orbax finds the arrays of a checkpoint."""
    inside = manifest.location(path).parent == path
    with files.plain_path(Path(path).absolute()) as place:
        yield place / ARRAYS if inside else place


def _stored(tree: Any) -> dict[str, Any]:
    """Name -> array, without the empty ones, which orbax refuses and `_unflatten` makes again."""
    named = {name: leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for name, leaf in named_leaves(tree).items()}
    return {name: leaf for name, leaf in named.items() if leaf.size}


def _unflatten(flat: dict[str, np.ndarray], like: Any, path: Path) -> Any:
    wanted = named_leaves(like)
    flat = {name: np.empty(leaf.shape) for name, leaf in wanted.items() if 0 in leaf.shape} | flat
    for name in sorted(wanted.keys() ^ flat.keys()):
        where = "lacks" if name in wanted else "holds the unexpected"
        raise InputError(f"{path} is of another model or configuration: it {where} array '{name}'.")
    sharded = {
        f"{prefix}.{name}"
        for prefix, part in named_leaves(like, is_leaf=lambda x: isinstance(x, Sharded)).items()
        if isinstance(part, Sharded)
        for name in named_leaves(part)
    }
    for name in sharded:
        flat[name] = _with_rows(flat[name], wanted[name].shape[0])
    for name, leaf in wanted.items():
        if tuple(flat[name].shape) != tuple(leaf.shape):
            raise InputError(
                f"{path} is of another model or configuration: '{name}' has shape "
                f"{tuple(flat[name].shape)}, expected {tuple(leaf.shape)}."
            )
    leaves = [np.asarray(flat[name], dtype=leaf.dtype) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _with_rows(array: np.ndarray, rows: int) -> np.ndarray:
    """With empty rows added, or taken away, at the end; as it is where a row to be taken away is not empty."""
    if array[rows:].any():
        return array
    empty = np.zeros((max(0, rows - len(array)), *array.shape[1:]), array.dtype)
    return np.concatenate([array[:rows], empty])
