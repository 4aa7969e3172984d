"""Runs that take given seconds: how many rounds fit, and what ends a run in any case."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence


def until(seconds: float, now: Callable[[], float] = time.perf_counter) -> Callable[[int, Mapping[str, float]], None]:
    """What ends a run after the round in which the seconds from this call are over, as Ctrl-C does."""
    end = now() + seconds

    def on_round(rounds: int, metrics: Mapping[str, float]) -> None:
        if now() > end:
            raise KeyboardInterrupt

    return on_round


def rounds(ticks: Sequence[float], warmup: int, seconds: float) -> int:
    """How many rounds fit into the seconds, at least one that teaches.

    Args:
        ticks: seconds at the start and after each round; the last rounds all teach.
        warmup: rounds before those.
    """
    first = ticks[warmup + 1] - ticks[0]  # with what is compiled
    pace = (ticks[-1] - ticks[warmup + 1]) / (len(ticks) - warmup - 2)
    return warmup + 1 + max(0, int((seconds - first) / pace))
