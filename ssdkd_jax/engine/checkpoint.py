"""Saving and restoring any pytree with orbax, whole or not at all.

A checkpoint is an orbax folder and, written after it, a manifest with the size and digest of each
of its files: one that was cut short has no manifest, one that was damaged does not match it, and
either is passed over for the newest whole one. Where several hosts run, orbax writes the rows of
each together, into one folder that all of them see; the first host writes the manifest.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from ssdkd_jax.engine import hosts, parallel
from ssdkd_jax.errors import InputError
from ssdkd_jax.types import Sharded, named_leaves

log = logging.getLogger(__name__)


class Damaged(InputError):
    """A checkpoint that is not what was written; the sentence names the file and what is wrong with it."""


class Found(NamedTuple):
    """A whole checkpoint: its step, where it is, and the note that was saved with it."""

    step: int
    path: Path
    note: dict[str, Any]


def save(folder: str | Path, step: int, tree: Any, note: dict | None = None, keep: int = 2) -> Path:
    """Save `tree` as checkpoint `step`, and delete all but the newest `keep`.

    Args:
        tree: host arrays; with several hosts, `Sharded` parts as arrays over all devices.
        note: JSON-able, returned by `restore`.

    Raises:
        OSError: when the disk is full or not writable; older checkpoints stay.
    """
    path = Path(folder).absolute() / f"{step:08d}"
    if hosts.is_first():
        path.parent.mkdir(parents=True, exist_ok=True)
        discard(path)
        _sweep(path.parent)
    hosts.wait("checkpoint folder")
    try:
        with ocp.PyTreeCheckpointer() as writer:
            writer.save(path, _stored(tree))
    except ValueError as error:  # of tensorstore, which puts the errno into its text
        _sweep(path.parent)
        raise _os_error(error, path) from error
    if hosts.is_first():
        body = {"files": _files(path), "note": note or {}}
        write_json(_manifest(path), {**body, "sha256": _digest(body)})
        for old in sorted(steps(folder))[:-keep]:
            discard(path.parent / f"{old:08d}")
    hosts.wait("checkpoint manifest")
    return path


class Saver:
    """Saves a state that is on the devices, no more often than every `seconds` but where it must be."""

    def __init__(self, folder: Path, seconds: float):
        self.folder, self.seconds, self.last = folder, seconds, time.monotonic()

    def now_and_then(self, step: int, state: Any, note: dict) -> None:
        """Save `state` where the last time is long enough ago on any host."""
        if hosts.any_of(time.monotonic() - self.last >= self.seconds):
            self.now(step, state, note)

    def now(self, step: int, state: Any, note: dict) -> None:
        """Save `state`."""
        save(self.folder, step, parallel.to_save(state), note)
        self.last = time.monotonic()


def steps(folder: str | Path) -> list[int]:
    """Numbers of the checkpoints that have a manifest, ascending."""
    return sorted(int(p.stem) for p in Path(folder).glob("[0-9]*.json") if p.stem.isdigit())


def restore(folder: str | Path, like: Any) -> tuple[int, Any, dict] | None:
    """The newest whole checkpoint as (step, tree, note), or None where there is none at all.

    Args:
        like: a tree of arrays or jax.ShapeDtypeStruct, which gives the structure. A `Sharded` part
            may have other padding than was saved: empty rows are added or taken away at its end.

    Raises:
        ValueError: when checkpoints exist but all are damaged, or when the newest whole one is
            of another structure; the sentence names the first array that differs.
    """
    found = newest(folder)
    return (found.step, _unflatten(read(found.path), like, found.path), found.note) if found else None


def newest(folder: str | Path) -> Found | None:
    """The newest whole checkpoint, or None where there is none at all.

    Raises:
        InputError: when checkpoints exist but all are damaged.
    """
    saved_steps, reasons = steps(folder), []
    for step in reversed(saved_steps):
        path = Path(folder).absolute() / f"{step:08d}"
        try:
            return Found(step, path, verify(path))
        except Damaged as error:
            reasons.append(str(error))
            log.warning("%s Trying the checkpoint before.", error)
    if saved_steps:
        raise InputError(f"Every checkpoint in {folder} is damaged; delete that folder to start over. {reasons[0]}")
    return None


def verify(path: Path) -> dict:
    """The note of a checkpoint whose files match its manifest.

    Raises:
        Damaged: otherwise; a file that is gone, cut short, or changed is told apart.
    """
    try:
        manifest = json.loads(_manifest(path).read_text())
        files, note = manifest["files"], manifest["note"]
        whole = manifest["sha256"] == _digest({"files": files, "note": note})
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise Damaged(f"{_manifest(path)} is cut short or has changed.")
    found = _files(path)
    for name in sorted(files.keys() | found.keys()):
        if name not in found:
            raise Damaged(f"{path / name} is gone.")
        if name not in files:
            raise Damaged(f"{path / name} was not there when the checkpoint was written.")
        (size, digest), (size_found, digest_found) = files[name], found[name]
        if size != size_found:
            raise Damaged(f"{path / name} is cut short or grown: {size_found} bytes instead of {size}.")
        if digest != digest_found:
            raise Damaged(f"{path / name} has changed bytes: its SHA-256 differs from the manifest's.")
    return note


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint by their dotted names, as they were saved."""
    with ocp.PyTreeCheckpointer() as reader:
        names = reader.metadata(path).item_metadata.tree
        return reader.restore(path, restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names})


def discard(path: Path) -> None:
    """Delete a checkpoint, manifest first, so that no half of it ever looks whole."""
    _manifest(path).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Delete what saves that were cut short have left behind."""
    whole = {f"{step:08d}" for step in steps(folder)}
    for entry in folder.iterdir():
        if re.fullmatch(r"\d{8}(\.orbax-checkpoint-tmp.*)?", entry.name) and entry.name not in whole:
            shutil.rmtree(entry, ignore_errors=True)


def _os_error(error: ValueError, path: Path) -> Exception:
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return OSError(int(code.group(1)), os.strerror(int(code.group(1))), str(path)) if code else error


def _manifest(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _files(path: Path) -> dict[str, list]:
    """Size and SHA-256 of every file below `path`, by its name there."""
    contents = {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
    return {name: [len(content), hashlib.sha256(content).hexdigest()] for name, content in contents.items()}


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    write_bytes(path, json.dumps(value, indent=2).encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def _stored(tree: Any) -> dict[str, Any]:
    """Name -> array, without the empty ones, which orbax refuses and `_unflatten` makes again."""
    return {name: leaf for name, leaf in named_leaves(tree).items() if np.size(leaf)}


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
