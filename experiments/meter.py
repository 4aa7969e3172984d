"""What the two sides of compare_pytorch.py share: a clock that stands still during evaluation, and the job's files.

It needs nothing but Python, so that it adds to neither clock.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

STARTED = "SSDKD_COMPARISON_STARTED"  # time.time() when the process was started
Curve = Sequence[Mapping[str, float]]


def reached(curve: Curve, level: float) -> float | None:
    """Seconds of the first of two evaluations in a row that have an accuracy; None where there are no such two."""
    for first, second in itertools.pairwise(curve):
        if min(first["accuracy"], second["accuracy"]) >= level:
            return first["seconds"]
    return None


class Meter:
    """Wall-clock seconds since the process was started, those of evaluations left out, and the curve over them.

    Args:
        started: time.time() at the start.
        levels: accuracies; the run may end once the highest counts, see `reached`.
        budget: seconds that it may take.
        now: a clock.
    """

    def __init__(self, started: float, levels: Sequence[float], budget: float, now: Callable[[], float] = time.time):
        self.started, self.highest, self.budget, self.now = started, max(levels), budget, now
        self.outside_seconds = 0.0
        self.curve: list[dict[str, float]] = []

    @property
    def seconds(self) -> float:
        """Inside the clock; not to be asked for within `outside`."""
        return self.now() - self.started - self.outside_seconds

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """What happens within does not count."""
        begun = self.now()
        try:
            yield
        finally:
            self.outside_seconds += self.now() - begun

    def evaluated(self, accuracy: float, steps: int) -> None:
        """Add a point to the curve, after so many steps of the student."""
        self.curve.append({"seconds": self.seconds, "steps": steps, "accuracy": accuracy})
        print(f"{self.seconds:.1f} s, {steps} steps: {100 * accuracy:.2f} %", flush=True)

    def over(self) -> bool:
        """Whether the run may end."""
        return self.seconds >= self.budget or reached(self.curve, self.highest) is not None


def opened(folder: Path) -> tuple[dict[str, Any], Meter]:
    """The job of a folder, and the meter of this process."""
    job = json.loads((folder / "job.json").read_text())
    return job, Meter(float(os.environ[STARTED]), job["levels"], job["seconds"])


def close(
    folder: Path, job: Mapping[str, Any], meter: Meter, settings: Mapping[str, Any], packages: Sequence[str]
) -> None:
    """Write run.json, whole or not at all: the job, what came of it, and on what."""
    found = {
        **job,
        "curve": meter.curve,
        "seconds_inside": meter.seconds,
        "seconds_outside": meter.outside_seconds,
        "settings": settings,
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
        "machine": machine(),
    }
    partial = folder / ".run.json"
    partial.write_text(json.dumps(found, indent=2))
    partial.replace(folder / "run.json")


def machine() -> dict[str, Any]:
    """The processor, how many of it this process may use, and how busy it was in the last minutes."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        allowed = len(os.sched_getaffinity(0))
        load = os.getloadavg()
        return {"processor": names[0], "processors": os.cpu_count(), "allowed": allowed, "load": load}
    return {"processor": platform.processor(), "processors": os.cpu_count()}
