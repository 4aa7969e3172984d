"""What summary.json says of a run."""

from __future__ import annotations

from typing import Any

import jax
from ml_collections import ConfigDict

from ssdkd_jax.engine import environment
from ssdkd_jax.report import machine, progress

LEVELS = (0.85, 0.88, 0.90, 0.91, 0.92, 0.95, 0.98)
NOT_SCORES = ("round", "seconds", "synthesis", "distillation")  # of a point of the curve


def scores(
    score: str, teacher_scores: dict[str, float], curve: list[dict[str, Any]], teacher_seconds: float
) -> dict[str, Any]:
    """How good the networks are, by the task's `score` above all; the student as it was at the end of the curve.

    Args:
        teacher_seconds: that the teacher's training took, a part of the curve's.
    """
    student_scores = {name: value for name, value in curve[-1].items() if name not in NOT_SCORES}
    return {
        "score": score,
        f"teacher_{score}": teacher_scores[score],
        f"student_{score}": student_scores[score],
        f"real_subset_{score}": None,
        "teacher_scores": teacher_scores,
        "student_scores": student_scores,
        f"time_to_{score}": time_to(score, curve),
        f"time_to_{score}_after_teacher": time_to(score, curve, teacher_seconds),
    }


def time_to(score: str, curve: list[dict[str, Any]], less: float = 0.0) -> dict[str, float | None]:
    """Level of a score -> seconds until the student had it, `less` subtracted; None where it never had."""
    first = {level: next((p["seconds"] - less for p in curve if p[score] >= level), None) for level in LEVELS}
    return {f"{level:.2f}": seconds for level, seconds in first.items()}


def circumstances(config: ConfigDict, clock: progress.Stopwatch) -> dict[str, Any]:
    """What the run took, on what, and with which settings."""
    return {
        "seconds": {**clock.seconds, "total": clock.total, "process": environment.seconds_since_start()},
        "peak_memory_bytes": machine.peak_memory_bytes(),
        "peak_device_memory_bytes": machine.peak_device_memory_bytes(),
        "devices": [str(device) for device in jax.devices()],
        "versions": machine.versions(),
        "clock": clock.clock,
        "seed": config.seed,
        "config": config.to_dict(),
    }


def sentence(summary: dict[str, Any]) -> str:
    """The scores of teacher, student and yardstick in a line; and where they tell different things, why."""
    names = [f"{network}_{summary['score']}" for network in ("teacher", "student", "real_subset")]
    line = ", ".join(f"{name} {summary[name]:.4f}" for name in names if summary[name] is not None)
    foreign = summary.get("foreign")
    return f"{line}, agreement {summary['agreement']:.4f} ({foreign})" if foreign else line
