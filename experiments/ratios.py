"""A teacher's own network with a share of its channels: how accurate the student is, over the share.

    python experiments/ratios.py --teacher=runs/digits/teacher --workdir=runs/ratios

For each of --ratios and --seeds, the saved teacher is distilled without data; real test images of --data then judge it.
Started again, it goes on with the runs that are missing. Writes ratios.json and ratios.png into the workdir.
"""

from __future__ import annotations

from ssdkd_jax.engine import environment

environment.prepare()

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import judged
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

import ssdkd_jax
from ssdkd_jax import data
from ssdkd_jax.engine import files
from ssdkd_jax.report import machine, plots
from ssdkd_jax.run import identity

TEACHER = flags.DEFINE_string("teacher", None, "Folder of the saved teacher.", required=True)
WORKDIR = flags.DEFINE_string("workdir", "runs/ratios", "Folder of the table and the plot.")
RATIOS = flags.DEFINE_list("ratios", ["0.75", "0.5", "0.35", "0.25"], "Shares of the teacher's channels.")
SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of the runs.")
DATA = flags.DEFINE_string("data", "digits", "Whose test images judge; one of data.load's.")
START = flags.DEFINE_enum("start", "random", ["random", "teacher"], "As --config.student.start.")
ROUNDS = flags.DEFINE_integer("rounds", None, "Of synthesis; by default as the rules for a run without config say.")


def run(teacher: ssdkd_jax.Teacher, ratio: float, seed: int, real: data.Dataset) -> dict[str, Any]:
    """A run without data by the default config, and what real images then say of its student."""
    config = ssdkd_jax.default_config(teacher, ratio)
    config.student.start = START.value
    return judged.run(teacher, ratio, real, config=config, seed=seed, rounds=ROUNDS.value)


def drawn(runs: Sequence[Mapping[str, Any]]) -> Figure:
    """The accuracy of each run over its ratio, a line through their means, and the teacher's."""
    figure = plots.Picture(figsize=(6, 4), layout="constrained", dpi=120)
    axes, ratios = figure.subplots(), sorted({one["ratio"] for one in runs})
    means = [np.mean([one["student_accuracy"] for one in runs if one["ratio"] == ratio]) for ratio in ratios]
    axes.plot([one["ratio"] for one in runs], [one["student_accuracy"] for one in runs], ".", label="a seed")
    axes.plot(ratios, means, "-", label="data-free student, mean")
    axes.axhline(runs[0]["teacher_accuracy"], linestyle="--", color="gray", label="teacher")
    axes.set_xlabel("share of the teacher's channels")
    axes.set_ylabel("accuracy on real test images")
    axes.set_xticks(ratios)
    axes.legend()
    return figure


def main(_: list[str]) -> None:
    """Make the runs that are missing, and print each as it ends; then draw all."""
    workdir, real = Path(WORKDIR.value), data.load(DATA.value)
    teacher, path = ssdkd_jax.Teacher.load(TEACHER.value), workdir / "ratios.json"
    workdir.mkdir(parents=True, exist_ok=True)
    about = {"teacher": TEACHER.value, "data": DATA.value, "start": START.value, "rounds": ROUNDS.value}
    found = json.loads(path.read_text()) if path.exists() else {"about": about, "runs": []}
    identity.check(found["about"], about, workdir, "choose another --workdir")
    done = {(one["ratio"], one["seed"]) for one in found["runs"]}
    for seed in map(int, SEEDS.value):
        for ratio in map(float, RATIOS.value):
            if (ratio, seed) not in done:
                found["runs"].append({"ratio": ratio, "seed": seed, **run(teacher, ratio, seed, real)})
                print(json.dumps(found["runs"][-1]), flush=True)
                files.write_json(path, {**found, "versions": machine.versions()})
    plots.write(workdir / "ratios.png", drawn(found["runs"]))


if __name__ == "__main__":
    app.run(main)
