"""Saving and restoring any pytree with orbax, whole or not at all.

A checkpoint is an orbax folder and, written after it, a manifest with the digest of its files:
one that was cut short has no manifest, one that was damaged does not match it, and either is
passed over for the newest whole one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ssdkd_jax.types import named_leaves

log = logging.getLogger(__name__)


def save(folder: str | Path, step: int, tree: Any, note: dict | None = None, keep: int = 2) -> Path:
    """Save `tree` (host arrays) as checkpoint `step`, and delete all but the newest `keep`.

    Args:
        note: JSON-able, returned by `restore`.

    Raises:
        OSError: when the disk is full or not writable; older checkpoints stay.
    """
    path = Path(folder).absolute() / f"{step:08d}"
    discard(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with ocp.PyTreeCheckpointer() as writer:
        writer.save(path, _flatten(tree))
    manifest = {"digest": _digest(path), "note": note or {}}
    write_json(_manifest(path), manifest)
    for old in sorted(steps(folder))[:-keep]:
        discard(path.parent / f"{old:08d}")
    return path


def steps(folder: str | Path) -> list[int]:
    """Numbers of the checkpoints that have a manifest, ascending."""
    return sorted(int(p.stem) for p in Path(folder).glob("[0-9]*.json") if p.stem.isdigit())


def restore(folder: str | Path, like: Any) -> tuple[int, Any, dict] | None:
    """The newest whole checkpoint as (step, tree, note), or None where there is none at all.

    Args:
        like: a tree of arrays or jax.ShapeDtypeStruct, which gives the structure.

    Raises:
        ValueError: when checkpoints exist but all are damaged, or when the newest whole one is
            of another structure; the sentence names the first array that differs.
    """
    numbers = steps(folder)
    for step in reversed(numbers):
        path = Path(folder).absolute() / f"{step:08d}"
        note = verify(path)
        if note is None:
            log.warning("Checkpoint %s is damaged; trying the one before.", path)
            continue
        with ocp.PyTreeCheckpointer() as reader:
            flat = reader.restore(path)
        return step, _unflatten(flat, like, path), note
    if numbers:
        raise ValueError(f"Every checkpoint in {folder} is damaged; delete that folder to start over.")
    return None


def verify(path: Path) -> dict | None:
    """The note of a checkpoint whose files match its manifest, else None."""
    try:
        manifest = json.loads(_manifest(path).read_text())
        return manifest["note"] if manifest["digest"] == _digest(path) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def discard(path: Path) -> None:
    """Delete a checkpoint, manifest first, so that no half of it ever looks whole."""
    _manifest(path).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def _manifest(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _digest(path: Path) -> str:
    """SHA-256 over the names and contents of all files below `path`."""
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(str(file.relative_to(path)).encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


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


def _flatten(tree: Any) -> dict[str, np.ndarray]:
    """Name -> array, without the empty ones, which orbax refuses and `_unflatten` makes anew."""
    leaves = {name: np.asarray(leaf) for name, leaf in named_leaves(tree).items()}
    return {name: leaf for name, leaf in leaves.items() if leaf.size}


def _unflatten(flat: dict[str, Any], like: Any, path: Path) -> Any:
    wanted = named_leaves(like)
    flat = {name: np.empty(leaf.shape) for name, leaf in wanted.items() if 0 in leaf.shape} | flat
    for name in sorted(wanted.keys() ^ flat.keys()):
        where = "lacks" if name in wanted else "holds the unexpected"
        raise ValueError(f"{path} is of another model or configuration: it {where} array '{name}'.")
    for name, leaf in wanted.items():
        if tuple(flat[name].shape) != tuple(leaf.shape):
            raise ValueError(
                f"{path} is of another model or configuration: '{name}' has shape "
                f"{tuple(flat[name].shape)}, expected {tuple(leaf.shape)}."
            )
    leaves = [np.asarray(flat[name], dtype=leaf.dtype) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
