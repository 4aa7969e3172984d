"""What a checkpoint holds: the size and digest of each file, and a note, in a manifest with a digest of its own.

The manifest lies in the checkpoint's folder; version 0.1 laid it beside, as FOLDER.json. A mark says whose the folder
is before there is a manifest, or where it is damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssdkd_jax.engine import files
from ssdkd_jax.errors import InputError

NAME = "manifest.json"
MARK, MARK_TEXT = "SSDKD_JAX", b"This folder is a checkpoint of ssdkd_jax, which deletes it once it is superseded.\n"


class Damaged(InputError):
    """A checkpoint that is not what was written; the sentence names the file and what is wrong with it."""


def is_marked(path: Path) -> bool:
    """Whether a folder says that it is ours; a mark that was cut short says so too."""
    try:
        return not path.is_symlink() and MARK_TEXT.startswith(files.read_bytes(path / MARK))
    except (OSError, InputError):
        return False


def is_ours(path: Path) -> bool:
    """Whether a mark or a manifest says that this is a checkpoint, be it damaged."""
    try:
        return bool(read(path))
    except Damaged:
        return os.path.lexists(path / MARK)


def write(path: Path, note: dict[str, Any]) -> None:
    """Write the manifest of all that is below `path`.

    Raises:
        Damaged: where something there is not a plain file.
        TypeError, ValueError: where the note is not JSON.
    """
    body = json.loads(json.dumps({"files": _found(path), "note": note}))
    files.write_json(path / NAME, {**body, "sha256": _digest(body)})


def read(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint: 'files', each name with [size, SHA-256], and 'note'.

    Raises:
        Damaged: where it is not there, cut short, changed, or not one of ours.
    """
    place = location(path)
    try:
        stored = json.loads(files.read_bytes(place))
        body = {"files": stored["files"], "note": stored["note"]}
        whole = stored["sha256"] == _digest(body) and isinstance(body["note"], dict)
        pairs = [tuple(map(type, entry)) for entry in body["files"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole, pairs = False, []
    if not whole or set(pairs) - {(int, str)}:
        raise Damaged(f"{place} is cut short or has changed.")
    return body


def verify(path: Path) -> dict[str, Any]:
    """The note of a checkpoint whose files match its manifest.

    Raises:
        Damaged: otherwise; a file that is gone, cut short, changed, or a link is told apart.
    """
    found, manifest = _found(path), read(path)
    expected = manifest["files"]
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise Damaged(f"{path / name} is gone.")
        if name not in expected:
            raise Damaged(f"{path / name} was not there when the checkpoint was written.")
        (size, digest), (size_found, digest_found) = expected[name], found[name]
        if size != size_found:
            raise Damaged(f"{path / name} is cut short or grown: {size_found} bytes instead of {size}.")
        if digest != digest_found:
            raise Damaged(f"{path / name} has changed bytes: its SHA-256 differs from the manifest's.")
    return manifest["note"]


def location(path: Path) -> Path:
    """Where the manifest of a checkpoint lies."""
    inside = any(os.path.lexists(path / name) for name in (MARK, NAME))
    return path / NAME if inside else path.with_name(path.name + ".json")


def names(path: Path) -> Iterator[str]:
    """The files below `path` but its manifest.

    Raises:
        Damaged: at a link, which is never followed, or whatever else is neither file nor folder.
    """
    if path.is_symlink():
        raise Damaged(f"{path} is a link; a checkpoint is a folder of plain files.")
    for here, folders, found in os.walk(path):
        for entry in (Path(here, name) for name in sorted(folders + found)):
            mode = entry.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                kind = "a link" if stat.S_ISLNK(mode) else "neither file nor folder"
                raise Damaged(f"{entry} is {kind}; a checkpoint is a folder of plain files.")
            if stat.S_ISREG(mode) and entry != path / NAME:
                yield str(entry.relative_to(path))


def _found(path: Path) -> dict[str, list]:
    """Size and SHA-256 of every file below `path` but its manifest, by its name there."""
    return {name: list(files.digest(path / name)) for name in names(path)}


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
