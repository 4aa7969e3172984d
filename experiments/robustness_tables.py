"""What the runs of experiments/robustness.py come to: points that students lose, pair by pair, and over all pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tables
from scipy import stats

Record = Mapping[str, Any]
FAILED = "failed"
NEAR = 0.3  # points of the best snapshot


def loss(one: Record) -> float:
    """Points of accuracy that a student has less than its teacher; infinite where its run failed."""
    return math.inf if one["failed"] else 100 * (one["teacher_accuracy"] - one["student_accuracy"])


def line(one: Record) -> str:
    """A run in words."""
    head = f"{one['pair']}, {one['label']}, seed {one['seed']}"
    if one["failed"]:
        return f"{head}: {one['failed']}"
    scores = [100 * one[name] for name in ("teacher_accuracy", "student_accuracy", "agreement")]
    told = "teacher {:.2f} %, student {:.2f} %, agreement {:.2f} %".format(*scores)
    ended = "" if one["finished"] else ", ended by the clock"
    return f"{head}: {told}, {one['seconds']:.0f} s{ended}"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation in points, or 'failed' where a run did."""
    return tables.spread(values) if np.isfinite(values).all() else FAILED


def by_label(runs: Sequence[Record]) -> dict[str, list[Record]]:
    """The runs of each label, in the order in which the labels come."""
    return {label: [one for one in runs if one["label"] == label] for label in dict.fromkeys(r["label"] for r in runs)}


def row(runs: Sequence[Record], labels: Sequence[str]) -> list[str]:
    """A pair: what the student costs of its teacher, its teacher's accuracy, and of each label loss and seconds."""
    first, of = runs[0], by_label(runs)
    shares = (100 * first[f"student_{what}"] / first[f"teacher_{what}"] for what in ("parameters", "flops"))
    teacher = next((f"{100 * one['teacher_accuracy']:.2f}" for one in runs if not one["failed"]), "")
    cells = []
    for label in labels:
        made = of.get(label, [])
        cells.append(spread([loss(one) for one in made]) if made else "")
        cells.append(tables.spread([one["seconds"] for one in made], "{:.0f}") if made else "")
    return [f"{first['pair']} -> {first['student']}", *(f"{share:.0f}" for share in shares), teacher, *cells]


def summary(runs: Sequence[Record]) -> tuple[float, float]:
    """The median over pairs of their mean loss, and the largest loss of any run."""
    of = {one["pair"]: [loss(other) for other in runs if other["pair"] == one["pair"]] for one in runs}
    return float(np.median([np.mean(losses) for losses in of.values()])), max(map(loss, runs))


def kept_below_best(one: Record) -> float | None:
    """Points by which the kept snapshot is below the best one after the first third; None without snapshots."""
    curve = one.get("summary", {}).get("curve", [])
    known = {point["round"]: 100 * point["accuracy"] for point in curve if "snapshot" in point}
    if not known:
        return None
    late = [value for rounds, value in known.items() if rounds > max(known) / 3]
    return max(late) - known[curve[-1]["snapshot"]]


def remarks(runs: Sequence[Record]) -> list[str]:
    """A sentence each: on snapshots, on what fresh images tell, and on runs that call themselves unwell."""
    below = [value for one in runs if (value := kept_below_best(one)) is not None]
    both = [(one["fresh_agreement"], one["agreement"]) for one in runs if one.get("fresh_agreement") is not None]
    unwell = [one for one in runs if one.get("summary", {}).get("health")]
    found = []
    if below:
        near = sum(value <= NEAR for value in below)
        found.append(f"The kept snapshot is within {NEAR} points of the best in {near} of {len(below)} runs.")
    if len(both) > 2:
        rank = stats.spearmanr(*zip(*both, strict=True)).statistic
        found.append(f"Rank correlation of agreement on fresh and on real images over {len(both)} runs: {rank:.2f}.")
    found.append(f"{len(unwell)} of {len(runs)} runs say that something is wrong.")
    return found + [
        f"- {one['pair']}, {one['label']}, seed {one['seed']}: {sentence.split(';')[0]}."
        for one in unwell
        for sentence in one["summary"]["health"]
    ]


def whole(runs: Sequence[Record], order: Sequence[str]) -> str:
    """Markdown: a row a pair, two columns a label, then median and worst.

    Args:
        order: the names of all pairs.
    """
    labels = list(by_label(runs))
    rows = [row(of, labels) for name in order if (of := [one for one in runs if one["pair"] == name])]
    found = [summary(by_label(runs)[label]) for label in labels]
    for name, values in zip(("median of pairs", "worst run"), zip(*found, strict=True), strict=False):
        cells = (cell for value in values for cell in (f"{value:.2f}" if math.isfinite(value) else FAILED, ""))
        rows.append([name, "", "", "", *cells])
    heads = (head for label in labels for head in (f"{label}: points lost", "seconds"))
    return tables.markdown(("teacher -> student", "parameters %", "FLOPs %", "teacher %", *heads), rows)
