"""The folder of a run: one process at a time, and what is wrong with it in one sentence."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
from pathlib import Path
from typing import IO

from ssdkd_jax.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def claim(folder: Path) -> IO[str]:
    """Create the folder and lock it until the process ends, however it ends.

    Returns:
        The open lock file: the folder is free again once it is closed.

    Raises:
        OSError: where it cannot be written.
        ValueError: where another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / ".lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        owner = lock.read().strip() or "another process"
        lock.close()
        raise InputError(f"--workdir={folder} is in use by {owner}; wait for it, or choose another folder.") from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {platform.node()}")
    lock.flush()
    return lock


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
