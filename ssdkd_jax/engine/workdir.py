"""The folder of a run: one process at a time, and what is wrong with it in one sentence.

It may be a link, or lie below one. Links within it are not followed on writing, see `files`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ssdkd_jax.engine import files
from ssdkd_jax.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP)
FOLDERS = ("checkpoints", "student", "teacher_training", "tensorboard")
OWNER = re.compile(r"process \d+ on .*|")


def claim(folder: Path) -> IO[str]:
    """Create the folder and lock it until the process ends, however it ends.

    Returns:
        The open lock file: the folder is free again once it is closed.

    Raises:
        OSError: where it cannot be written.
        ValueError: where another process has it, where what stands for the lock file is none of ours, or where
            a folder that a run writes into is a link.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in FOLDERS:
        files.refuse_link(folder / name)
    path = folder / ".lock"
    with contextlib.ExitStack() as on_error:
        lock = on_error.enter_context(open(files.edit(path), "r+", errors="replace"))
        owner = lock.read(1000)
        if not OWNER.fullmatch(owner):
            raise InputError(f"'{path}' is not the lock of a run; move it away, or choose another folder.")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = owner or "another process"
            raise InputError(
                f"--workdir={folder} is in use by {owner}; wait for it, or choose another folder."
            ) from error
        _sign(lock, f"process {os.getpid()} on {platform.node()}")
        on_error.pop_all()
    return lock


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """`claim` for as long as the context; a run that is refused leaves the folder as it was, the lock included."""
    path = folder / ".lock"
    before = path.read_text(errors="replace") if path.is_file() else None
    with claim(folder) as lock:
        try:
            yield
        except InputError:
            _sign(lock, before or "")
            if before is None:
                path.unlink()
            raise


def _sign(lock: IO[str], owner: str) -> None:
    lock.seek(0)
    lock.truncate()
    lock.write(owner)
    lock.flush()


def explained(error: Exception) -> bool:
    """Whether `explain` tells all that there is to say; any other error is a fault of the program, or of a model."""
    return isinstance(error, InputError) or (isinstance(error, OSError) and error.errno in (*FULL, *UNWRITABLE))


def explain(error: Exception) -> str:
    """The error as one sentence; a full disk and a folder that cannot be written are named as such."""
    if isinstance(error, OSError) and error.errno in FULL:
        return f"The disk is full ({error}); checkpoints written before are kept: make room and start again."
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return f"'{error.filename}' cannot be written ({error.strerror}); choose a folder that you may write to."
    return str(error)
