"""What summary.json says of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax

from ssdkd_jax import build, models, replay_buffer
from ssdkd_jax.engine import environment, loop
from ssdkd_jax.interop.saved import Classifier
from ssdkd_jax.report import machine, progress
from ssdkd_jax.run import indicators, snapshots

if TYPE_CHECKING:
    from ml_collections import ConfigDict

LEVELS = (0.85, 0.88, 0.90, 0.91, 0.92, 0.95, 0.98)
NOT_SCORES = (
    "round",
    "seconds",
    "synthesis",
    "distillation",
    snapshots.ROUND,
    *indicators.NAMES,
)  # of a point of the curve


def scores(
    score: str,
    teacher_scores: dict[str, float],
    curve: list[dict[str, Any]],
    last: dict[str, Any],
    teacher_seconds: float,
) -> dict[str, Any]:
    """How good the networks are, by `score` above all.

    Args:
        score: the task's; 'agreement' where there are no real images.
        last: the point of the curve that is of the student as it is; {} where there is none.
        teacher_seconds: that the teacher's training took, a part of the curve's.
    """
    student_scores = {name: value for name, value in last.items() if name not in NOT_SCORES}
    return {
        "score": score,
        f"teacher_{score}": teacher_scores.get(score),
        f"student_{score}": last.get(score),
        f"real_subset_{score}": None,
        "teacher_scores": teacher_scores,
        "student_scores": student_scores,
        f"time_to_{score}": time_to(score, curve),
        f"time_to_{score}_after_teacher": time_to(score, curve, teacher_seconds),
    }


def time_to(score: str, curve: list[dict[str, Any]], less: float = 0.0) -> dict[str, float | None]:
    """Level of a score -> seconds until the student had it, `less` subtracted; None where it never had."""
    there = [(p["seconds"] - less, p[score]) for p in curve if score in p]
    first = {level: next((seconds for seconds, value in there if value >= level), None) for level in LEVELS}
    return {f"{level:.2f}": seconds for level, seconds in first.items()}


def sizes(teacher: Classifier, job: build.Job) -> dict[str, int]:
    """How many parameters the networks have; nothing is computed."""
    key = jax.random.key(0)
    state = jax.eval_shape(job.method.init, key)
    generator = {"generator": state.generator.variables} if hasattr(state, "generator") else {}
    networks = {"teacher": teacher.variables, "student": jax.eval_shape(job.network.init, key), **generator}
    return {f"{name}_parameters": models.parameter_count(variables) for name, variables in networks.items()}


def skipped(counts: dict[str, int], job: build.Job, position: loop.Position) -> float:
    """Which share of all steps was skipped."""
    steps = position.rounds * job.method.synthesis.steps + position.student_steps
    return sum(counts.values()) / max(1, steps)


def amounts(config: ConfigDict, job: build.Job, position: loop.Position) -> dict[str, int | None]:
    """How many images and steps the run made, and how many slots its buffer has; None for a method without one."""
    return {
        "synthetic_images": job.method.images_made(*position),
        "buffer_size": config.buffer.size if replay_buffer.Size in build.records(config) else None,
        "distillation_steps": position.student_steps,
    }


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
    """The scores of teacher, student and yardstick in a line, and how often the networks agree on fresh images."""
    names = [f"{network}_{summary['score']}" for network in ("teacher", "student", "real_subset")]
    told = [f"{name} {summary[name]:.4f}" for name in names if summary[name] is not None]
    if summary["score"] != "agreement" and "agreement" in summary:
        told.append(f"agreement on fresh images {summary['agreement']:.4f}")
    if summary.get("foreign"):
        told.append(f"on test images {summary['test_agreement']:.4f} ({summary['foreign']})")
    return ", ".join(told)
