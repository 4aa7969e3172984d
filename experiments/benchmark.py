"""Compare methods: same teacher, student, evaluation and seeds, under an equal time and an equal step budget.

    python experiments/benchmark.py --config=configs/digits.py --workdir=runs/benchmark --seeds=3 --budgets=60s,600

A budget is seconds of synthesis and distillation (60s) or distillation steps (600); compilation and evaluation are
counted apart. How many rounds fit into a time is measured first, in a short run of each method. Peak memory is that of
the accelerator where there is one, else of the process, compilation included. Every run is a process of distill.py;
started again, finished runs are not run again. Written are benchmark.json, benchmark.md and the plots, of all runs that
the workdir holds. Slow methods can be given more time than the others: --budgets=60s,1000s:deepinversion+cmi.

On a machine that others use, --clock=cpu counts processor seconds; for them to mean time, give each run a processor of
its own: --jobs=N runs N at once, and `taskset -c 0` before the command leaves it one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import plans
import runs
import tables
from absl import flags
from ml_collections import ConfigDict

from ssdkd_jax import presets
from ssdkd_jax.cli import launch
from ssdkd_jax.engine import files
from ssdkd_jax.errors import InputError

ON_REQUEST = ("fast_dfkd_2", "fast_dfkd_10", "ssdkd_logits")
METHODS = flags.DEFINE_list(
    "methods", [name for name in presets.PRESETS if name not in ON_REQUEST], "Of presets.PRESETS."
)
SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds 0, 1, ... of each method.", lower_bound=1)
BUDGETS = flags.DEFINE_list(
    "budgets", ["60s"], "Seconds (60s) or steps (600), each a table; of some methods alone: 400s:dafl+zskt."
)
POINTS = 20
BUDGET = re.compile(r"(\d+)(s?)")


class Budget(NamedTuple):
    """What a run may take: its folder, the amount, whether that is seconds or steps, the methods; none: all."""

    folder: str
    amount: int
    timed: bool
    methods: tuple[str, ...]


class Pace(NamedTuple):
    """Seconds that one round takes of each stage."""

    synthesis: float
    distillation: float


def main() -> None:
    """Run what is missing, and write what there is."""
    workdir, config = Path(launch.WORKDIR.value), launch.config()
    runs.begin(workdir, config)
    compare(workdir, config, METHODS.value, SEEDS.value, BUDGETS.value)


def compare(workdir: Path, config: ConfigDict, methods: Sequence[str], seeds: int, budgets: Sequence[str]) -> None:
    """Run each method, budget and seed that is not there yet; the results are written after each run.

    Raises:
        ValueError: where `config` already is another method's, a budget is malformed, or a pace cannot be measured.
    """
    if config.method.name != "ssdkd":
        raise InputError(f"The config is already that of '{config.method.name}'; name it without a method.")
    config = plans.configured(config, yardstick_steps=0, measure_unit=False)
    config.teacher.checkpoint = str(runs.train_teacher(workdir, config).resolve())
    asked = [(budget, name) for budget in map(parsed, budgets) for name in budget.methods or methods]
    paces = measured(workdir, config, dict.fromkeys(name for budget, name in asked if budget.timed))
    planned = [
        runs.Run(f"{budget.folder}/{name}/{seed}", fitted(of_method(config, name, seed), budget, paces.get(name)))
        for seed in range(seeds)
        for budget, name in asked
    ]
    for _ in runs.run_all(workdir, planned):
        write(workdir, finished(workdir))


def parsed(text: str) -> Budget:
    """'60s', '600' or '400s:dafl+zskt'.

    Raises:
        ValueError: for anything else, or a method that does not exist.
    """
    found = re.fullmatch(rf"({BUDGET.pattern})(?::(.+))?", text)
    if not found:
        raise InputError(f"Budget '{text}' is neither seconds, such as 60s, nor steps, such as 600.")
    folder, amount, unit, named = found.groups()
    methods = tuple(named.split("+")) if named else ()
    for name in methods:
        presets.check(name)
    return Budget(folder, int(amount), bool(unit), methods)


def of_method(config: ConfigDict, name: str, seed: int) -> ConfigDict:
    """`config` with another method and seed."""
    return presets.apply(plans.configured(config, seed=seed), name)


def finished(workdir: Path) -> dict[str, dict[str, list[dict]]]:
    """Budget -> method -> the record of each seed that has been run under `workdir`, by this call or an earlier one."""
    found: dict[str, dict[str, list[dict]]] = {}
    paths = [path for path in workdir.glob("*/*/*/summary.json") if BUDGET.fullmatch(path.parts[-4])]
    for path in sorted(paths, key=place):
        budget, name, _ = path.parts[-4:-1]
        found.setdefault(budget, {}).setdefault(name, []).append(record(json.loads(path.read_text())))
    return found


def place(path: Path) -> tuple[int, str, int, int]:
    """What runs are sorted by: budgets from short to long, methods as in the presets, seeds."""
    budget, name, seed = path.parts[-4:-1]
    return int(budget.removesuffix("s")), budget, list(presets.PRESETS).index(name), int(seed)


def fitted(config: ConfigDict, budget: Budget, pace: Pace | None) -> ConfigDict:
    """`config` with as many rounds as the budget holds, some of which, in proportion, only make images.

    Args:
        pace: of this method; a budget of steps needs none.
    """
    plan = config.schedule
    if budget.timed:
        share = plan.warmup / plan.rounds
        rounds = max(1, round(budget.amount / (pace.synthesis + (1 - share) * pace.distillation)))
        warmup = min(round(share * rounds), rounds - 1)
    else:
        warmup = plan.warmup
        rounds = warmup + max(1, round(budget.amount / plan.distill_steps))
    every = max(1, (rounds - warmup) // POINTS)
    return plans.configured(config, schedule__rounds=rounds, schedule__warmup=warmup, schedule__evaluate_every=every)


def measured(workdir: Path, config: ConfigDict, methods: Iterable[str]) -> dict[str, Pace]:
    """Median seconds of a round of each method, from short runs whose first distilling round is not counted.

    Raises:
        ValueError: where such a run fails.
    """
    chosen = {name: of_method(config, name, seed=0) for name in methods}
    rounds = {name: 2 + max(1, min(12, 100 // each.schedule.distill_steps)) for name, each in chosen.items()}
    short = dict(schedule__warmup=1, schedule__evaluate_every=1)
    planned = [
        runs.Run(f"pace/{name}", plans.configured(each, schedule__rounds=rounds[name], **short))
        for name, each in chosen.items()
    ]
    paces = {}
    for name, summary in zip(chosen, runs.run_all(workdir, planned), strict=True):
        if summary is None:
            raise InputError(f"The run that measures the pace of '{name}' failed; see {workdir}/pace/{name}/log.txt.")
        spent = np.array([[point["synthesis"], point["distillation"]] for point in summary["curve"]])
        paces[name] = Pace(*np.median(np.diff(spent, axis=0), axis=0))
    return paces


def record(summary: dict) -> dict:
    """What the tables and plots need of a run; accuracy is the task's score, for masks the mIoU."""
    seconds, score = summary["seconds"], summary["score"]
    return {
        "accuracy": summary[f"student_{score}"],
        "teacher_accuracy": summary[f"teacher_{score}"],
        "curve": [
            {"seconds": point["synthesis"] + point["distillation"], "accuracy": point[score]}
            for point in summary["curve"]
        ],
        **{stage: seconds.get(stage, 0.0) for stage in ("synthesis", "distillation", "compilation")},
        "steps": summary["distillation_steps"],
        "rounds": summary["config"]["schedule"]["rounds"],
        "images": summary["synthetic_images"],
        "peak_memory_bytes": summary.get("peak_device_memory_bytes") or summary["peak_memory_bytes"],
        "seed": summary["seed"],
        "clock": summary["clock"],
    }


def write(workdir: Path, of: Mapping[str, Mapping[str, list[dict]]]) -> None:
    """JSON, Markdown and plots of these records, budget by budget."""
    files.write_json(workdir / "benchmark.json", {"budgets": of})
    text = [f"## Budget {budget}\n\n{tables.comparison(of[budget])}\n\n{times(of, budget)}\n" for budget in of]
    files.write_text(workdir / "benchmark.md", "\n".join(text))
    for budget, records in of.items():
        tables.plot_curves(workdir / f"accuracy_{budget}.png", records, f"budget {budget}")
        tables.plot_times(workdir / f"times_{budget}.png", records, f"budget {budget}")


def times(of: Mapping[str, Mapping[str, list[dict]]], budget: str) -> str:
    """Seconds to the accuracy that SSD-KD has at a third of its time under `budget`, as a table; '' without SSD-KD.

    Each method counts with the budget, of all it has been given, under which it is there first.
    """
    if "ssdkd" not in of[budget]:
        return ""
    level = float(np.mean([accuracy_at(run, run["curve"][-1]["seconds"] / 3) for run in of[budget]["ssdkd"]]))
    names = dict.fromkeys(name for records in of.values() for name in records)
    quickest = {name: tables.quickest([r[name] for r in of.values() if name in r], level) for name in names}
    return f"Accuracy of SSD-KD at a third of its time: {100 * level:.2f} %.\n\n" + tables.reaching(quickest, level)


def accuracy_at(run: dict, seconds: float) -> float:
    """Accuracy at a time, linear between the evaluations and from 0 at the start."""
    points = [(0.0, 0.0), *((p["seconds"], p["accuracy"]) for p in run["curve"])]
    if not math.isfinite(seconds):
        return points[-1][1]
    return float(np.interp(seconds, *zip(*points, strict=True)))


if __name__ == "__main__":
    launch.launch(main)
