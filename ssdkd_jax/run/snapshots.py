"""Which student of a run is kept: the best on fresh images, told without data; ours.

The newest student takes the place of the kept one, unless it is clearly worse. Images that are made to be hard for a
student are harder for it than for another. So both answer fresh images made against the newest, and where the kept one
does better on these, as many that are made against the kept one.
"""

from __future__ import annotations

import math

from ssdkd_jax.engine import loop, parallel
from ssdkd_jax.run.indicators import Fresh
from ssdkd_jax.types import TrainState, Variables

ROUND = "snapshot"  # of a point of the curve: after which round the student that is kept was made
CLEARLY = 1.1  # times the kept student's KL


def keep_better(
    fresh: Fresh,
    programs: loop.Programs,
    state: TrainState,
    teacher: Variables,
    student: Variables,
    batches: int,
    first: bool,
) -> tuple[TrainState, bool, dict[str, float]]:
    """The state with its snapshot, whether this is `student`, and the indicators of `student`.

    Args:
        fresh: see `indicators`.
        student: the newest one, as it is judged.
        batches: of fresh images, made against one student.
        first: no student has been kept so far; the newest is, whatever it answers.
    """
    both = (student,) if first else (student, state.snapshot)
    new, *kept = fresh(programs, state, teacher, both, batches)
    if new and kept and not new["fresh_kl"] <= kept[0]["fresh_kl"]:
        opposed = state.replace(student=state.student.replace(variables=state.snapshot))
        again = fresh(programs, opposed, teacher, both, batches)
        new_kl, kept_kl = (a["fresh_kl"] + b["fresh_kl"] for a, b in zip((new, *kept), again, strict=True))
        if not new_kl <= CLEARLY * kept_kl and math.isfinite(kept_kl):
            return state, False, new
    return state.replace(snapshot=parallel.copied(student)), True, new
