"""Files that are written whole or not at all, and never through a link.

A link that stands where a file is to be written is replaced, and what it points to stays as it is. A link that
stands where a folder is to be written into, or where a file is to be continued, is refused. Links further up a path
are the user's: a run's folder may be one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssdkd_jax.errors import InputError

PLAIN = re.compile(r"[\w/ .,+=@%~-]*")
KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file that has another name elsewhere",
}


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: where it cannot be written; what was there stays.
    """
    partial = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}")
    try:
        with open(_open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=2))


def read_bytes(path: Path) -> bytes:
    """The content of a plain file.

    Raises:
        InputError: where it is a link or anything else.
        OSError: where it is not there or cannot be read.
    """
    with open(_open(path, os.O_RDONLY), "rb") as file:
        return file.read()


def digest(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a plain file, of which no more than a piece is in memory at a time.

    Raises:
        InputError, OSError: as `read_bytes`.
    """
    with open(_open(path, os.O_RDONLY), "rb") as file:
        found = hashlib.file_digest(file, "sha256")
        return file.tell(), found.hexdigest()


def edit(path: Path, flags: int = 0) -> int:
    """Open a plain file to go on writing it, or a new one: its descriptor.

    Args:
        flags: of `os.open` beside those for reading, writing and creating.

    Raises:
        InputError: where it is a link, symbolic or hard, or anything else but a file of its own.
    """
    number = _open(path, os.O_RDWR | os.O_CREAT | flags)
    if os.fstat(number).st_nlink != 1:
        os.close(number)
        raise _refusal(path)
    return number


def refuse_link(folder: Path) -> None:
    """Raise InputError where the folder is a link."""
    if folder.is_symlink():
        raise InputError(
            f"'{folder}' is a link, and nothing is written through one; remove it, or name the folder it points to."
        )


def make_folder(folder: Path) -> None:
    """Create a folder to write into, with those above it, where it is not there.

    Raises:
        InputError: where it is a link.
    """
    refuse_link(folder)
    folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """An absolute folder under a path of plain characters, which libraries do not take for a pattern or an address.

    Where its own path has others (brackets, a backslash, a star, a colon) it is reached through a link that
    lives as long as the context.
    """
    if PLAIN.fullmatch(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="ssdkd_jax_") as place:
        link = Path(place, "folder")
        link.symlink_to(folder)
        yield link


def sync(path: Path) -> None:
    """Return once a file, or the names in a folder, would outlast a loss of power."""
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that knows no sync of folders
            raise
    finally:
        os.close(number)


def sync_tree(folder: Path) -> None:
    """`sync` the folder and all that is below it."""
    for here, _, names in os.walk(folder):
        for path in (*(Path(here, name) for name in names), Path(here)):
            sync(path)


def _open(path: Path, flags: int) -> int:
    """Open a plain file; a pipe does not block."""
    try:
        number = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if path.is_symlink() or path.is_dir() or path.is_fifo() or path.is_socket():
            raise _refusal(path) from error
        raise
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise _refusal(path)
    return number


def _refusal(path: Path) -> InputError:
    kind = KINDS.get(stat.S_IFMT(os.lstat(path).st_mode), "a pipe or a device")
    return InputError(f"'{path}' is {kind}, not a plain file of its own; remove it, or choose another folder.")
