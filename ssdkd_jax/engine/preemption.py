"""SIGTERM, as a scheduler sends it before it takes the machine away: save, and exit with `EXIT_CODE`.

The loops ask `requested` between dispatches. A thread waits beside them, since no Python runs in
the main one while XLA compiles: where nothing was saved in time, it ends the process, and the run
goes on from the checkpoint before.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: start the same command again
GRACE_SECONDS = 7.0

_requested = threading.Event()


class Preempted(Exception):
    """The run was asked to stop, and has saved what it had."""


def requested() -> bool:
    """Whether SIGTERM has come."""
    return _requested.is_set()


def install() -> None:
    """Listen for SIGTERM from now on; from the main thread."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGTERM, lambda *_: _requested.set())
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)  # the run is over: Python would restore the default
    threading.Thread(target=_wait, args=(reader,), daemon=True, name="preemption").start()


def _wait(reader: int) -> None:
    """Set the flag at SIGTERM, whatever the main thread does, and end the process when its time is up."""
    while signal.SIGTERM not in os.read(reader, 1):
        pass
    _requested.set()
    time.sleep(GRACE_SECONDS)
    print("Stopped by SIGTERM; the same command goes on from the newest checkpoint.", file=sys.stderr, flush=True)
    os._exit(EXIT_CODE)
