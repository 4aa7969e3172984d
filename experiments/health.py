"""Whether a run says what is wrong with it: ten faults planted into a run of digits, and runs without a fault.

    python experiments/health.py --workdir=runs/health [--seeds=0,1]

The runs are half as long as those of the rules. A fault counts as named where the run, or the call itself, says one of
the things that `CASES` expects; a run without a fault is to say nothing. Started again, it goes on with the runs that
are missing. Writes health.json and health.md into the workdir.
"""

from __future__ import annotations

from ssdkd_jax.engine import environment

environment.prepare()

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from absl import app, flags

import ssdkd_jax
from ssdkd_jax import build, data
from ssdkd_jax import config as settings
from ssdkd_jax.engine import files
from ssdkd_jax.errors import InputError
from ssdkd_jax.report import machine
from ssdkd_jax.run import health
from ssdkd_jax.run import teacher as teachers

WORKDIR = flags.DEFINE_string("workdir", "runs/health", "Folder of the teachers and of the table.")
SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of the runs.")
MODEL, STUDENT, MISSING = "wrn16_1", "wrn10_1", 3


class Tiny(nn.Module):
    """A student that sees four numbers of an image."""

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits [B, C]."""
        return nn.Dense(self.classes)(nn.avg_pool(x, (8, 8), (8, 8)).reshape(len(x), -1)[:, :4])


class Trained(NamedTuple):
    """Teachers of digits: one as it should be, one of another seed, one that has never seen a class."""

    good: ssdkd_jax.Teacher
    other: ssdkd_jax.Teacher
    without: ssdkd_jax.Teacher


class Case(NamedTuple):
    """A run.

    Attributes:
        expected: the symptoms, one of which names the fault; () where there is none.
        teacher: of the trained ones, makes the run's.
        student: as `ssdkd_jax.distill` takes it.
        fields: what differs from the rules.
    """

    expected: tuple[str, ...]
    teacher: Callable[[Trained], ssdkd_jax.Teacher] = lambda trained: trained.good
    student: Any = STUDENT
    fields: Mapping[str, Any] = MappingProxyType({})


def normalised(trained: Trained) -> ssdkd_jax.Teacher:
    """The teacher with the mean and std of no normalisation at all."""
    good = trained.good
    inputs = good.inputs._replace(mean=(0.0,), std=(1.0,))
    return ssdkd_jax.Teacher(build.network(MODEL, inputs), good.variables, inputs, good.name)


def mixed(trained: Trained) -> ssdkd_jax.Teacher:
    """The teacher with the BatchNorm statistics of the other one."""
    variables = {**trained.good.variables, "batch_stats": trained.other.variables["batch_stats"]}
    return ssdkd_jax.Teacher(trained.good.network, variables, trained.good.inputs, trained.good.name)


def untrained(trained: Trained) -> ssdkd_jax.Teacher:
    """The teacher with fresh weights."""
    good = trained.good
    return ssdkd_jax.Teacher(good.network, good.network.init(jax.random.key(7)), good.inputs, good.name)


def training(trained: Trained) -> ssdkd_jax.Teacher:
    """The teacher as a function that normalises by the batch."""
    good = trained.good

    def apply(variables: Any, images: jax.Array) -> jax.Array:
        return jax.vmap(lambda x: build.network(MODEL, good.inputs).train(variables, x)[0], axis_name="devices")(
            images[None]
        )[0]

    return ssdkd_jax.Teacher.from_function(apply, good.variables, image_shape=good.image_shape)


UNLIKE = ("statistics not matched", "unsure teacher", "few classes")
CASES = {
    "none": Case(()),
    "none, another student": Case((), student="vgg8@0.125"),
    "none, half the teacher": Case((), student=0.5),
    "mean 0 and std 1": Case(UNLIKE, normalised),
    "BatchNorm statistics of another network": Case(UNLIKE, mixed),
    "generator's rate x 100": Case(
        ("images alike", "images of a class alike", "few classes", "steps skipped", "statistics not matched"),
        fields={"synthesis.lr_generator": 0.5},
    ),
    "adversarial weight x 50": Case(
        ("unsure teacher", "few classes", "statistics not matched"), fields={"synthesis.adv": 50.0}
    ),
    "a class never learnt": Case(("class missing",), lambda trained: trained.without),
    "temperature .1": Case(("hard answers",), fields={"student.temperature": 0.1}),
    "buffer of 20": Case(("student learnt its images by heart", "buffer.size = 20"), fields={"buffer.size": 20}),
    "untrained teacher": Case(UNLIKE, untrained),
    "student of 50 weights": Case(("student does not follow",), student=Tiny(10)),
    "teacher in train mode": Case(("depends on the others of the batch",), training),
}


def trained(workdir: Path, name: str, dataset: data.Dataset, seed: int) -> ssdkd_jax.Teacher:
    """A teacher of a data set, trained where the workdir does not hold it yet."""
    config = settings.default()
    config.seed = seed
    config.data.name = "digits"
    config.teacher.update(model=MODEL, batch=64, shift=1, epochs=7)
    teachers.train(config, dataset, workdir / name)
    return ssdkd_jax.Teacher.load(workdir / name / "teacher")


def all_trained(workdir: Path) -> Trained:
    """The three teachers."""
    digits = data.load("digits")
    seen = digits.train_labels != MISSING
    few = digits._replace(train_images=digits.train_images[seen], train_labels=digits.train_labels[seen])
    return Trained(
        trained(workdir, "good", digits, 0), trained(workdir, "other", digits, 1), trained(workdir, "few", few, 0)
    )


def run(case: Case, of: Trained, seed: int, real: data.Dataset) -> dict[str, Any]:
    """What a run knows of itself, or by which sentence the call refuses it, and its agreement on real images."""
    try:
        teacher = case.teacher(of)
        config = ssdkd_jax.default_config(teacher, case.student)
        config.schedule.update(rounds=12, distill_steps=25, evaluate_every=4)
        config.update_from_flattened_dict(dict(case.fields))
        distilled = ssdkd_jax.distill(teacher, case.student, config, seed=seed)
    except InputError as error:
        return {"refused": str(error), "known": {}, "agreement": None}
    agreement = ssdkd_jax.compare(teacher, distilled.student, real.test_images, real.test_labels)["agreement"]
    known = {**distilled.indicators, "skipped": distilled.summary["skipped"], "chance": 1 / teacher.classes}
    return {"refused": None, "known": known, "agreement": agreement}


def told(one: dict[str, Any]) -> dict[str, str]:
    """Symptom -> sentence of a run, by the bounds as they are."""
    return health.found(health.ON_THE_WAY + health.AT_THE_END, one["known"])


def as_expected(one: dict[str, Any]) -> bool:
    """Whether a run says one of the things expected of its case, and nothing where nothing is."""
    expected, said = CASES[one["case"]].expected, told(one)
    return any(name in said or name in (one["refused"] or "") for name in expected) if expected else not said


def table(runs: list[dict[str, Any]]) -> str:
    """A line a run."""
    lines = ["| fault | seed | agreement % | as expected | said |", "|---|---:|---:|---|---|"]
    for one in runs:
        real = "" if one["agreement"] is None else f"{100 * one['agreement']:.1f}"
        said = one["refused"] or "<br>".join(sentence.split(";")[0] for sentence in told(one).values())
        lines.append(f"| {one['case']} | {one['seed']} | {real} | {'yes' if as_expected(one) else 'no'} | {said} |")
    return "\n".join(lines)


def main(_: list[str]) -> None:
    """Make the runs that are missing, then the table."""
    workdir = Path(WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    path, real, of = workdir / "health.json", data.load("digits"), all_trained(workdir)
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    done = {(one["case"], one["seed"]) for one in runs}
    for seed in map(int, SEEDS.value):
        for name, case in CASES.items():
            if (name, seed) in done:
                continue
            runs.append({"case": name, "seed": seed, **run(case, of, seed, real)})
            print(json.dumps(runs[-1]), flush=True)
            files.write_json(path, {"runs": runs, "versions": machine.versions()})
            jax.clear_caches()
    text = table(runs)
    files.write_text(workdir / "health.md", text + "\n")
    print(text)


if __name__ == "__main__":
    app.run(main)
