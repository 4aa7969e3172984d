"""Whether agreement on fresh images tells how good a student is: runs of several teachers, well and badly set.

    python experiments/indicators.py --workdir=runs/indicators [--strangers=FOLDER] [--fashion_mnist=FOLDER]

Each run is made without data. Then teacher and student are compared on real images that neither saw: the test images of
digits and of Fashion-MNIST; for the two networks of strangers, scikit-learn's digits brought to their size. Started
again, it goes on with the runs that are missing. Writes indicators.json and indicators.png into the workdir.
"""

from __future__ import annotations

from ssdkd_jax.engine import environment

environment.prepare()

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import strangers
from absl import app, flags
from matplotlib.figure import Figure
from scipy import stats

import ssdkd_jax
from ssdkd_jax import config as settings
from ssdkd_jax import data
from ssdkd_jax.engine import files
from ssdkd_jax.report import machine, plots
from ssdkd_jax.run import teacher as teachers

WORKDIR = flags.DEFINE_string("workdir", "runs/indicators", "Folder of the runs.")
STRANGERS = flags.DEFINE_string("strangers", "", "Folder of usps_cnn.pth and mnist_cnn.pth; '' leaves them out.")
FASHION = flags.DEFINE_string("fashion_mnist", "", "Folder of Fashion-MNIST's IDX files; '' leaves it out.")
TOLD = {
    "agreement": "agreement on fresh images",
    "fresh_kl": "KL on fresh images",
    "fresh_confidence": "teacher's confidence",
    "fresh_balance": "balance of classes",
    "bn_ratio": "BN match, end over start",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "rules": {},
    "short": {"schedule.rounds": 7},
    "very short": {"schedule.rounds": 6, "schedule.distill_steps": 5},
    "no BN match": {"synthesis.bn": 0.0},
    "no adversary": {"synthesis.adv": 0.0},
    "strong adversary": {"synthesis.adv": 20.0},
    "rate too high": {"student.lr": 2.0},
    "mirrored": {"views.flip": True, "synthesis.flip": True},
    "one step a round": {"synthesis.inner_steps": 1},
}


class Bench(NamedTuple):
    """A teacher, real images to judge by, and the settings that are tried on it."""

    teacher: ssdkd_jax.Teacher
    images: np.ndarray
    labels: np.ndarray
    tried: tuple[str, ...]


def trained(workdir: Path, name: str, folder: str = "", **fields: Any) -> tuple[ssdkd_jax.Teacher, data.Dataset]:
    """A teacher of our own zoo, trained on a data set where the workdir does not hold it yet."""
    config, dataset = settings.default(), data.load(name, folder)
    config.data.update(name=name, folder=folder)
    config.teacher.update(model="wrn16_1", batch=64, shift=1, **fields)
    teachers.train(config, dataset, workdir / name)
    return ssdkd_jax.Teacher.load(workdir / name / "teacher"), dataset


def benches(workdir: Path) -> Iterator[tuple[str, Bench]]:
    """The benches that can be had, by name."""
    teacher, dataset = trained(workdir, "digits", epochs=7)
    yield "digits", Bench(teacher, dataset.test_images, dataset.test_labels, tuple(SETTINGS))
    if FASHION.value:
        teacher, dataset = trained(workdir, "fashion_mnist", FASHION.value, epochs=1)
        tried = ("rules", "short", "no BN match")
        yield "Fashion-MNIST", Bench(teacher, dataset.test_images[:5000], dataset.test_labels[:5000], tried)
    if STRANGERS.value:
        folder = Path(STRANGERS.value)
        tried = ("rules", "short", "no BN match", "mirrored", "rate too high")
        yield "stranger, USPS", Bench(strangers.teacher(folder, "usps_cnn"), *strangers.digits("usps_cnn"), tried)
        tried = ("rules", "short", "no adversary", "mirrored")
        yield "stranger, MNIST", Bench(strangers.teacher(folder, "mnist_cnn"), *strangers.digits("mnist_cnn"), tried)


def run(bench: Bench, setting: str) -> dict[str, Any]:
    """What a run tells of itself, and what real images then say."""
    config = ssdkd_jax.default_config(bench.teacher, "wrn10_1")
    config.schedule.update(rounds=15, distill_steps=25)
    config.update_from_flattened_dict(SETTINGS[setting])
    distilled = ssdkd_jax.distill(bench.teacher, "wrn10_1", config)
    known = distilled.indicators
    ratio = known["fresh_bn"] / known["fresh_bn_first"] if "fresh_bn" in known else None
    real = ssdkd_jax.compare(bench.teacher, distilled.student, bench.images, bench.labels)
    return {**known, "bn_ratio": ratio, "real": real}


def correlations(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Spearman's rank correlation of each indicator with agreement on real images, over the runs that have it."""
    found = {}
    for name in TOLD:
        pairs = [(one[name], one["real"]["agreement"]) for one in runs if one.get(name) is not None]
        found[name] = float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)
    return found


def picture(runs: list[dict[str, Any]], found: dict[str, float]) -> Figure:
    """Agreement on real images against what is known without them, a point a run."""
    shown = ("agreement", "fresh_kl")
    figure = Figure(figsize=(10, 4.2), layout="constrained", dpi=120)
    for axes, name in zip(figure.subplots(1, len(shown)), shown, strict=True):
        for bench in dict.fromkeys(one["bench"] for one in runs):
            of_bench = [one for one in runs if one["bench"] == bench]
            axes.scatter([one[name] for one in of_bench], [one["real"]["agreement"] for one in of_bench], label=bench)
        axes.set(xlabel=TOLD[name], ylabel="agreement on real images", title=f"rank correlation {found[name]:.2f}")
        axes.set_xscale("log" if name == "fresh_kl" else "linear")
    axes.legend(fontsize=8)
    return figure


def main(_: list[str]) -> None:
    """Make the runs that are missing, then the table and the picture."""
    logging.getLogger("ssdkd_jax").setLevel(logging.INFO)
    workdir = Path(WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "indicators.json"
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    done = {(one["bench"], one["setting"]) for one in runs}
    for name, bench in benches(workdir):
        for setting in bench.tried:
            if (name, setting) not in done:
                runs.append({"bench": name, "setting": setting, **run(bench, setting)})
                print(json.dumps(runs[-1]), flush=True)
                files.write_json(path, {"runs": runs, "versions": machine.versions()})
    found = correlations(runs)
    files.write_json(path, {"runs": runs, "rank_correlation": found, "versions": machine.versions()})
    plots.write(workdir / "indicators.png", picture(runs, found))
    print(json.dumps({"runs": len(runs), "rank_correlation": found}))


if __name__ == "__main__":
    app.run(main)
