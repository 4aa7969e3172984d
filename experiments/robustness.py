"""Students of a protocol's teachers, one call without settings each, judged on real test images that none has seen.

    python experiments/robustness.py --role=tuning --workdir=runs/robustness [--seeds=0,1,2] [--pairs=fashion_cnn]
    python experiments/robustness.py --role=tuning --workdir=runs/robustness --variant=fast_dfkd_5

The teachers are those of experiments/robustness_teachers.py, below --teachers. Each run is a JSON file in WORKDIR/runs;
started again, the script goes on with those that are missing. It prints the table of all that are there, and writes it
as WORKDIR/robustness.md.

'ours' is `ssdkd_jax.distill(teacher, student)`. Any other variant is the preset of a method on the settings of ours,
its student from random weights, with so many rounds that it takes the seconds of our run of the same pair and seed. All
end when the protocol's seconds are over, with the student that is there then. --label names the column of another
version of the library, which PYTHONPATH puts in the place of this one: --label=before.
"""

from __future__ import annotations

from ssdkd_jax.engine import environment

environment.prepare()

import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import judged
import meter
import pacing
import plans
import protocol
import robustness_tables
import robustness_teachers as teachers
import sets
import turns
from absl import app, flags
from ml_collections import ConfigDict

import ssdkd_jax
from ssdkd_jax import data, presets
from ssdkd_jax.engine import files
from ssdkd_jax.errors import NotFiniteError
from ssdkd_jax.report import machine

OURS = "ours"
ROLE = flags.DEFINE_enum("role", "tuning", protocol.ROLES, "Which pairs of the protocol.")
WORKDIR = flags.DEFINE_string("workdir", "runs/robustness", "Folder of the runs and of their table.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the runs.")
VARIANT = flags.DEFINE_string("variant", OURS, "ours, or the preset of a method.")
LABEL = flags.DEFINE_string("label", None, "What the table calls it; its variant where none is given.")
CURVE = 1000  # test images that judge a student on its way; their seconds count
PACE = 3  # rounds that teach, from which those of a whole run are reckoned


class Run(NamedTuple):
    """A student: of which pair, by what it is made, and from which seed."""

    pair: protocol.Pair
    variant: str
    label: str
    seed: int

    def path(self, workdir: Path) -> Path:
        """Where its JSON lies."""
        return workdir / "runs" / f"{self.pair.name}-{self.label}-{self.seed}.json"


def configured(run: Run, teacher: ssdkd_jax.Teacher, seconds: float) -> ConfigDict | None:
    """The settings of a run: none of ours; of another method its preset, for so many seconds."""
    if run.variant == OURS:
        return None
    config = ssdkd_jax.default_config(teacher, run.pair.student, method=run.variant)
    warmup, ticks = config.schedule.warmup, [time.perf_counter()]
    few = plans.configured(config, schedule__rounds=warmup + PACE + 1, schedule__evaluate_every=warmup + PACE + 1)

    def on_round(*_: Any) -> None:
        ticks.append(time.perf_counter())

    ssdkd_jax.distill(teacher, run.pair.student, few, seed=run.seed, on_round=on_round)
    config.schedule.rounds = pacing.rounds(ticks[:-1], warmup, seconds)  # the last one is evaluated, too
    return config


def made(run: Run, teacher: ssdkd_jax.Teacher, real: data.Dataset, seconds: float, budget: float) -> dict[str, Any]:
    """A student, and how good it is; or how its run failed.

    Args:
        seconds: for which another method is planned.
        budget: seconds after which any run ends.
    """
    evaluate, start = (real.test_images[:CURVE], real.test_labels[:CURVE]), time.perf_counter()
    try:
        config, start = configured(run, teacher, seconds), time.perf_counter()
        distilled = ssdkd_jax.distill(
            teacher, run.pair.student, config, seed=run.seed, evaluate=evaluate, on_round=pacing.until(budget)
        )
    except NotFiniteError as error:
        return {"failed": str(error), "seconds": time.perf_counter() - start}
    spent = time.perf_counter() - start
    found = judged.told(teacher, distilled, real)
    followed = config or ssdkd_jax.default_config(teacher, run.pair.student)
    return {
        **{"failed": None, "seconds": spent, "finished": distilled.finished, **found},
        **{"config": followed.to_dict(), "summary": distilled.summary},
    }


def about(run: Run, budget: float) -> dict[str, Any]:
    """What a run is, and on what."""
    package = str(Path(ssdkd_jax.__file__).parent)
    return {
        **{"pair": run.pair.name, "role": run.pair.role, "student": run.pair.student, "seed": run.seed},
        **{"variant": run.variant, "label": run.label, "budget": budget, "commit": turns.commit(package)},
        **{"command": shlex.join(sys.argv), "versions": machine.versions(), "machine": meter.machine()},
    }


def planned_seconds(run: Run, workdir: Path, budget: float) -> float:
    """The seconds of our run of the same pair and seed; where there is none, those of the protocol."""
    path = run._replace(label=OURS).path(workdir)
    return min(budget, json.loads(path.read_text())["seconds"]) if path.exists() else budget


def fill(pair: protocol.Pair, runs: Sequence[Run], workdir: Path, budget: float) -> None:
    """Make the runs of a pair that are missing.

    Raises:
        InputError: where the student is not small enough.
    """
    missing = [run for run in runs if not run.path(workdir).exists()]
    if not missing:
        return
    teacher, real = teachers.load(Path(teachers.TEACHERS.value), pair), sets.load(pair.data)
    sizes = protocol.costs(teacher, pair.student)
    protocol.check_costs(pair.name, sizes)
    for run in missing:
        found = made(run, teacher, real, planned_seconds(run, workdir, budget), budget)
        files.write_json(run.path(workdir), {**about(run, budget), **sizes, **found})
        print(robustness_tables.line({**run._asdict(), "pair": pair.name, **found}), flush=True)
    jax.clear_caches()


def main(_: list[str]) -> None:
    """Make what is missing, then print the table of all."""
    workdir, whole = Path(WORKDIR.value), protocol.read(Path(teachers.PROTOCOL.value))
    (workdir / "runs").mkdir(parents=True, exist_ok=True)
    if VARIANT.value != OURS:
        presets.check(VARIANT.value)
    label = LABEL.value or VARIANT.value
    for pair in teachers.chosen(whole.of(ROLE.value)):
        fill(pair, [Run(pair, VARIANT.value, label, int(seed)) for seed in SEEDS.value], workdir, whole.seconds)
    found = [json.loads(path.read_text()) for path in sorted((workdir / "runs").glob("*.json"))]
    found = [one for one in found if one["role"] == ROLE.value]
    text = "\n".join([robustness_tables.whole(found, list(whole.pairs)), "", *robustness_tables.remarks(found)])
    files.write_text(workdir / "robustness.md", text + "\n")
    print(text)


if __name__ == "__main__":
    app.run(main)
