"""Students of networks that strangers trained, beside the same students taught from real digits.

    python experiments/ceilings.py --teachers=FOLDER --workdir=runs/ceilings [--seeds=0,1,2] [--students=0.5,wrn10_1]

The networks are those of experiments/strangers.py. Each student is made twice, with as many steps of as many images:
without data, by `ssdkd_jax.distill` and no settings, and from half of the real digits, which is what it can be at most.
The other half judges, by how often student and teacher say the same. Each run is a JSON file in the workdir; started
again, the script goes on with those that are missing. It prints the table of all, and writes it as ceilings.md.
"""

from __future__ import annotations

from ssdkd_jax.engine import environment

environment.prepare()

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import strangers
import tables
import turns
from absl import app, flags
from ml_collections import ConfigDict

import ssdkd_jax
from ssdkd_jax import build, presets
from ssdkd_jax.api import students
from ssdkd_jax.engine import files
from ssdkd_jax.interop.saved import Classifier
from ssdkd_jax.models import shares
from ssdkd_jax.report import machine, progress
from ssdkd_jax.run import distillation, evaluation, pipeline

TEACHERS = flags.DEFINE_string("teachers", None, "Folder of usps_cnn.pth and mnist_cnn.pth.", required=True)
WORKDIR = flags.DEFINE_string("workdir", "runs/ceilings", "Folder of the runs and of their table.")
NETWORKS = flags.DEFINE_list("networks", list(strangers.NETWORKS), "Of which the students are.")
STUDENTS = flags.DEFINE_list("students", ["0.5", "wrn10_1"], "Names, or shares of the teacher's channels.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the runs.")


def without_data(teacher: ssdkd_jax.Teacher, student: str, seed: int) -> Classifier:
    """The student that a user gets who sets nothing."""
    return ssdkd_jax.distill(teacher, student, seed=seed).student


def from_real(teacher: ssdkd_jax.Teacher, student: str, seed: int, images: np.ndarray) -> Classifier:
    """The same student with as many steps of as many images, these alone."""
    config = real_config(teacher, student)
    config.seed = seed
    whole, clock = build.for_devices(config), progress.Stopwatch()
    learner = students.handed_over(student, teacher, whole.compute)
    prepared = pipeline.prepare(whole, teacher, evaluation.without_data(), clock, learner, images)
    done = pipeline.start(prepared, None, clock, distillation.Watchers())
    return pipeline.conclude(prepared, done, clock).student


def real_config(teacher: ssdkd_jax.Teacher, student: str) -> ConfigDict:
    """The settings of a run without any, its images real ones."""
    rules = ssdkd_jax.default_config(teacher, student)
    config = presets.apply(rules.copy_and_resolve_references(), "real")
    config.schedule.rounds = rules.schedule.rounds - rules.schedule.warmup
    config.schedule.evaluate_every = config.schedule.rounds
    config.student.update(batch=rules.student.batch + rules.student.procedural, procedural=0)
    config.student.update(model=student, start_images=1024, start_procedural=0)
    return config


def run(teacher: ssdkd_jax.Teacher, name: str, student: str, seed: int) -> dict[str, Any]:
    """How often each of the two students agrees with its teacher, how right they are, and the seconds of the first."""
    images, labels = strangers.digits(name)
    order = np.random.default_rng(0).permutation(len(images))
    taught, judged = np.split(order, [len(order) // 2])
    start = time.perf_counter()
    made = {"ours": without_data(teacher, student, seed)}
    seconds = time.perf_counter() - start
    made["ceiling"] = from_real(teacher, student, seed, images[taught])
    found = {way: ssdkd_jax.compare(teacher, one, images[judged], labels[judged]) for way, one in made.items()}
    return {**found, "seconds": seconds}


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """A row a teacher and student: agreement in percent, ± over seeds."""
    rows = {}
    for one in runs:
        rows.setdefault((one["teacher"], one["student"]), []).append(one)
    header = ("teacher -> student", "seeds", "without data %", "from real digits %", "below it", "seconds")

    def row(pair: tuple[str, str], of: Sequence[Mapping[str, Any]]) -> list[str]:
        ours, ceiling = ([100 * one[way]["agreement"] for one in of] for way in ("ours", "ceiling"))
        below = tables.spread(list(np.subtract(ceiling, ours)))
        seconds = tables.spread([one["seconds"] for one in of], "{:.0f}")
        return [" -> ".join(pair), str(len(of)), tables.spread(ours), tables.spread(ceiling), below, seconds]

    return tables.markdown(header, [row(pair, of) for pair, of in rows.items()])


def main(_: list[str]) -> None:
    """Make the runs that are missing, then print the table."""
    workdir = Path(WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    for name in NETWORKS.value:
        teacher = strangers.teacher(Path(TEACHERS.value), name)
        for student in STUDENTS.value:
            for seed in map(int, SEEDS.value):
                path = workdir / f"{name}-{shares.student_name(student, 'teacher')}-{seed}.json"
                if not path.exists():
                    about = {"teacher": name, "student": student, "seed": seed, "command": shlex.join(sys.argv)}
                    about |= {"commit": turns.commit(str(Path(ssdkd_jax.__file__).parent))}
                    content = {**about, **run(teacher, name, student, seed), "versions": machine.versions()}
                    files.write_json(path, content)
                    print(json.dumps(content), flush=True)
    text = table([json.loads(path.read_text()) for path in sorted(workdir.glob("*.json"))])
    files.write_text(workdir / "ceilings.md", text + "\n")
    print(text)


if __name__ == "__main__":
    app.run(main)
