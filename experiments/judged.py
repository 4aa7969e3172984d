"""A run without data, and what real images then say of its student."""

from __future__ import annotations

import time
from typing import Any

import ssdkd_jax
from ssdkd_jax import data
from ssdkd_jax.api.students import Student


def run(teacher: ssdkd_jax.Teacher, student: Student, real: data.Dataset, **options: Any) -> dict[str, Any]:
    """The sizes of both networks, seconds of the call, agreement on fresh images, and `ssdkd_jax.compare` on real ones.

    Args:
        options: of `ssdkd_jax.distill`.
    """
    start = time.perf_counter()
    distilled = ssdkd_jax.distill(teacher, student, **options)
    seconds = time.perf_counter() - start
    sizes = {"teacher_parameters": teacher.parameters, "student_parameters": distilled.student.parameters}
    return {**sizes, "seconds": seconds, **told(teacher, distilled, real)}


def told(teacher: ssdkd_jax.Teacher, distilled: ssdkd_jax.Distilled, real: data.Dataset) -> dict[str, Any]:
    """Agreement on fresh images, None where the run told none, and `ssdkd_jax.compare` on real ones."""
    found = ssdkd_jax.compare(teacher, distilled.student, real.test_images, real.test_labels)
    return {"fresh_agreement": distilled.indicators.get("agreement"), **found}
