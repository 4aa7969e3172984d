"""Tables and a plot of compare_pytorch.py: seconds to a level of accuracy, and how many times ours the peer takes.

A run that does not reach a level gives a lower bound, the seconds it had: `> 300`. A median over bounds is one, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import meter
import tables

from ssdkd_jax.report import plots

Runs = Mapping[str, Sequence[Mapping[str, Any]]]  # variant -> its run.json of each seed
NOTHING = "-"


class Amount(NamedTuple):
    """A number, or a lower bound of it."""

    value: float
    exact: bool

    def text(self, form: str) -> str:
        """As a table shows it."""
        return ("" if self.exact else "> ") + form.format(self.value)


def taken(run: Mapping[str, Any], level: float) -> Amount:
    """Seconds until a level counts."""
    found = meter.reached(run["curve"], level)
    return Amount(run["seconds_inside"], False) if found is None else Amount(found, True)


def ratio(theirs: Amount, ours: Amount) -> Amount | None:
    """How many times ours theirs is; None where ours is only a bound."""
    return Amount(theirs.value / ours.value, theirs.exact) if ours.exact else None


def cell(amounts: Sequence[Amount | None], form: str) -> str:
    """The median and, where there are several, each."""
    if not amounts or None in amounts:
        middle = NOTHING
    else:
        known = [amount for amount in amounts if amount]
        middle = Amount(median(one.value for one in known), all(one.exact for one in known)).text(form)
    each = ", ".join(NOTHING if amount is None else amount.text(form) for amount in amounts)
    return f"{middle} ({each})" if len(amounts) > 1 else middle


def seconds(runs: Runs, levels: Sequence[float]) -> str:
    """A row a variant: seconds to each level, of the median run and of each seed, and the last accuracy."""
    header = ["variant", "seeds", *(f"s to {100 * level:g} %" for level in levels), "last accuracy %, at s"]
    rows = []
    for name, of_seeds in runs.items():
        times = [cell([taken(run, level) for run in of_seeds], "{:.1f}") for level in levels]
        ends = [last(run) for run in of_seeds]
        rows.append([name, ", ".join(str(run["seed"]) for run in of_seeds), *times, ", ".join(ends)])
    return tables.markdown(header, rows)


def last(run: Mapping[str, Any]) -> str:
    """The last point of a run."""
    if not run["curve"]:
        return f"none at {run['seconds_inside']:.0f}"
    point = run["curve"][-1]
    return f"{100 * point['accuracy']:.2f} at {point['seconds']:.0f}"


def paired(theirs: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Any]]:
    """Runs of the same seed."""
    mine = {run["seed"]: run for run in ours}
    return [(run, mine[run["seed"]]) for run in theirs if run["seed"] in mine]


def ratios(runs: Runs, levels: Sequence[float]) -> str:
    """A row a pair of variants: the peer's seconds over ours, seed by seed."""
    sides = {side: [name for name, of in runs.items() if of[0]["side"] == side] for side in ("peer", "ours")}
    rows = []
    for theirs, mine in ((theirs, mine) for theirs in sides["peer"] for mine in sides["ours"]):
        pairs = paired(runs[theirs], runs[mine])
        found = [[ratio(taken(a, level), taken(b, level)) for a, b in pairs] for level in levels]
        rows.append([f"{theirs} / {mine}", *(cell(amounts, "{:.2f}") for amounts in found)])
    return tables.markdown(["times", *(f"to {100 * level:g} %" for level in levels)], rows)


def plot(path: Path, runs: Runs, levels: Sequence[float]) -> None:
    """Accuracy over seconds, a line a run, a colour a variant."""
    figure = plots.Picture(figsize=(8, 5), layout="constrained", dpi=120)
    axes = figure.subplots()
    for index, (name, of_seeds) in enumerate(runs.items()):
        style = "--" if of_seeds[0]["side"] == "peer" else "-"
        for number, run in enumerate(run for run in of_seeds if run["curve"]):
            points = [(point["seconds"], 100 * point["accuracy"]) for point in run["curve"]]
            label = "_" if number else name
            axes.plot(*zip(*points, strict=True), style, color=f"C{index}", label=label, linewidth=1)
    for level in levels:
        axes.axhline(100 * level, color="gray", linestyle=":", linewidth=0.8)
    if any(run["curve"] for of_seeds in runs.values() for run in of_seeds):
        axes.set(xscale="log")
        figure.legend(loc="outside right upper", fontsize=8)
    axes.set(xlabel="seconds since the start of the process, evaluation left out")
    axes.set(ylabel="accuracy on real test images, %")
    plots.write(path, figure)
