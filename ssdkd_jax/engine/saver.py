"""Saving a run beside its steps: they go on while what they had made is written."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ssdkd_jax.engine import checkpoint, files, hosts, parallel

SHARE = 0.01  # of the time that a run may stand still for saves


class Saver:
    """Saves a state that is on the devices, now and then and where it must be.

    Of several saves at most one is under way. What went wrong with it is raised by the next one, or by `close`.

    Args:
        folder: None saves nothing.
        seconds: least time between saves; longer where the steps would stand still for more than `SHARE` of it. 0 saves
            each time.

    Raises:
        InputError: where the folder is a link.
    """

    def __init__(self, folder: Path | None, seconds: float):
        if folder is not None:
            files.refuse_link(folder)
        self.folder, self.seconds, self.last, self.blocked = folder, seconds, time.monotonic(), 0.0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._under_way: Future[None] | None = None

    def now_and_then(self, step: int, state: Any, note: dict) -> None:
        """Begin to save `state`, as it is, where the last time is long enough ago on any host."""
        begun, least = time.monotonic(), max(self.seconds, self.blocked / SHARE) if self.seconds else 0.0
        if not hosts.any_of(begun - self.last >= least):
            return
        self.join()
        if self.folder is not None:
            end = checkpoint.begin(self.folder, step, parallel.to_save(state), note)
            self._under_way = self._worker.submit(end)
        self.last = time.monotonic()
        self.blocked = self.last - begun

    def now(self, step: int, state: Any, note: dict) -> None:
        """Save `state`; it is a checkpoint on return."""
        self.join()
        if self.folder is not None:
            checkpoint.save(self.folder, step, parallel.to_save(state), note)
        self.last = time.monotonic()

    def join(self) -> None:
        """Wait until what is under way is a checkpoint."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def close(self) -> None:
        """`join`, and begin no more; `now` still saves."""
        self._worker.shutdown()
        self.join()
