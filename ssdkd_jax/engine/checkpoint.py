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
import json
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ssdkd_jax.engine import arrays, checkpoint_folder, hosts, manifest
from ssdkd_jax.engine.arrays import read
from ssdkd_jax.engine.manifest import Damaged, verify
from ssdkd_jax.engine.trees import named_leaves
from ssdkd_jax.errors import InputError
from ssdkd_jax.types import Sharded

__all__ = ["Damaged", "begin", "newest", "newest_whole", "read", "restore", "save", "steps", "verify"]

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
    begin(folder, step, tree, note, keep)()
    hosts.wait("checkpoint manifest")


def begin(folder: str | Path, step: int, tree: Any, note: dict | None = None, keep: int = 2) -> Callable[[], None]:
    """Begin to `save`, of `tree` and `note` as they are at this moment.

    Returns:
        What waits until all is written, and makes it a checkpoint; called once, in any thread.

    Raises:
        OSError, InputError: as `save`; so may what is returned.
    """
    note = json.loads(json.dumps(note or {}))
    partial = Path(folder).absolute() / checkpoint_folder.partial_name(_random_bytes())
    with contextlib.ExitStack() as opened:
        if hosts.is_first():
            opened.enter_context(checkpoint_folder.made(partial))
        hosts.wait("checkpoint folder")
        end_writing = arrays.begin_writing(partial, _stored(tree))
        under_way = opened.pop_all()

    def end() -> None:
        with under_way:
            end_writing()
            if hosts.is_first():
                manifest.write(partial, note)
                checkpoint_folder.publish(partial, step, keep)

    return end


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


def _random_bytes() -> bytes:
    """Eight of them, the same on all hosts."""
    return hosts.concatenated(np.frombuffer(os.urandom(8), np.uint8))[:8].tobytes()


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
