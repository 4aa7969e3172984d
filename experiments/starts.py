"""What a student knows before any training: solved for from its teacher in closed form, on images of several sources.

    python experiments/starts.py --workdir=runs/teachers [--only=grey_cnn] [--seeds=0,1,2] [--sources=procedural_3072]

The teachers are those of experiments/teachers.py, in the same workdir. A seed decides the images and whatever of the
student is not solved for. Each cell of the table is a JSON file in WORKDIR/starts; started again, the script goes on
with those that are missing. It prints the table of all that are there, and writes it as WORKDIR/starts.md.
"""

from __future__ import annotations

from ssdkd_jax.engine import environment

environment.prepare()

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tables
import teachers
from absl import app, flags

import ssdkd_jax
from ssdkd_jax import build, closed_form, config, data, settings, sources
from ssdkd_jax.engine import files, parallel
from ssdkd_jax.errors import InputError
from ssdkd_jax.report import machine
from ssdkd_jax.run import evaluation
from ssdkd_jax.sources import procedural
from ssdkd_jax.types import Array, Variables

SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of each cell.")
SOURCES = flags.DEFINE_list(
    "sources",
    ["synthetic_128", "synthetic_1024", "procedural_3072", "real_1024"],
    "Where images come from, and how many of them.",
)
STUDENTS = {  # of a teacher's model
    "wrn16_2": ("wrn16_1", "wrn10_1"),
    "wrn40_2": ("wrn16_1",),
    "networks:resnet34_narrow": ("networks:resnet18_narrow",),
    "networks:resnet18_narrow": ("networks:resnet18_narrower",),
    "vgg11": ("vgg8", "networks:resnet18_narrow"),
    "vgg8": ("networks:vgg8_half",),
    "networks:vgg8_plain": ("networks:vgg8_plain_half",),
    "networks:cnn": ("networks:cnn_half",),
}


class Cell(NamedTuple):
    """A start: teacher, student, source and seed."""

    teacher: str
    student: str
    source: str
    seed: int

    def path(self, workdir: Path) -> Path:
        """Where its JSON lies."""
        return workdir / "starts" / f"{'-'.join(map(str, self)).replace('networks:', '')}.json"


class Bench(NamedTuple):
    """A teacher, the data that it was trained on, and the folder of images that are made from it."""

    teacher: ssdkd_jax.Teacher
    dataset: data.Dataset
    folder: Path


def synthetic(bench: Bench, count: int, seed: int) -> Array:
    """Images that `synthesize` makes; kept in the folder."""
    path = bench.folder / f"synthetic-{count}-{seed}.npz"
    if not path.exists():
        ssdkd_jax.synthesize(bench.teacher, count, seed=seed).save(path)
    with np.load(path) as made:
        return sources.stored(made["images"], count)(jax.random.key(seed))


def drawn(bench: Bench, count: int, seed: int) -> Array:
    """Procedural images."""
    return procedural.source(count, bench.teacher.image_shape)(jax.random.key(seed))


def real(bench: Bench, count: int, seed: int) -> Array:
    """Images that the teacher was trained on: the bound of the others."""
    return sources.stored(bench.dataset.train_images, count)(jax.random.key(seed))


ORIGINS: dict[str, Callable[[Bench, int, int], Array]] = {"synthetic": synthetic, "procedural": drawn, "real": real}


def images(bench: Bench, source: str, seed: int) -> Array:
    """The images of a source, float32 [N, H, W, D] in [0, 1].

    Raises:
        InputError: for an origin that is not known, with the nearest, or no number.
    """
    origin, _, count = source.partition("_")
    made = settings.chosen(ORIGINS, "--sources", origin)
    if not count.isdecimal():
        raise InputError(f"--sources = '{source}' names no number of images; write it as '{origin}_1024'.")
    return made(bench, int(count), seed)


def asked(name: str, kind: teachers.Kind) -> list[Cell]:
    """The cells of a teacher that the command line asks for, by student."""
    return [
        Cell(name, student, source, int(seed))
        for student in STUDENTS[kind.model]
        for source in SOURCES.value
        for seed in SEEDS.value
    ]


def run(bench: Bench, cells: Sequence[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Each cell of a teacher, with what its student reaches on the test images and how long the solve took."""
    teacher, judges = bench.teacher, {}
    for cell in cells:
        if cell.student not in judges:
            network = build.network(cell.student, teacher.inputs, axis=None)
            judges[cell.student] = network, evaluation.evaluator(config.default(), network, bench.dataset)
        network, judge = judges[cell.student]
        before: Variables = parallel.quick_jit(network.init)(jax.random.key(cell.seed))
        shown, start = images(bench, cell.source, cell.seed), time.perf_counter()
        solved = closed_form.solve(teacher.network, teacher.variables, network, before, shown)
        seconds = time.perf_counter() - start
        yield cell, {"accuracy": judge(parallel.to_devices(solved))["accuracy"], "seconds": seconds}


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row a pair, a column a source; accuracy in percent, ± its standard deviation over seeds."""
    columns = tuple(dict.fromkeys(cell["source"] for cell in cells))
    rows: dict[tuple[str, str], dict[str, list[float]]] = {}
    of_teacher = {cell["teacher"]: cell["teacher_accuracy"] for cell in cells}
    for cell in cells:
        row = rows.setdefault((cell["teacher"], cell["student"]), {})
        row.setdefault(cell["source"], []).append(100 * cell["accuracy"])
    header = ("teacher -> student", "teacher %", *(f"{name.replace('_', ', ')} %" for name in columns))
    return tables.markdown(
        header,
        [
            [
                f"{teacher} -> {student.removeprefix('networks:')}",
                f"{100 * of_teacher[teacher]:.2f}",
                *(tables.spread(row[name]) if name in row else "" for name in columns),
            ]
            for (teacher, student), row in rows.items()
        ],
    )


def found(workdir: Path) -> list[dict[str, Any]]:
    """The cells that are there, in the order of the teachers, their students and the sources."""
    orders = [list(teachers.TEACHERS), sum(STUDENTS.values(), ()), SOURCES.value]

    def place(cell: Mapping[str, Any]) -> tuple[Any, ...]:
        values = (cell["teacher"], cell["student"], cell["source"])
        known = (order.index(x) if x in order else len(order) for order, x in zip(orders, values, strict=True))
        return (*known, cell["seed"])

    return sorted((json.loads(path.read_text()) for path in (workdir / "starts").glob("*.json")), key=place)


def main(_: list[str]) -> None:
    """Fill the cells that are missing, then print the table."""
    workdir = Path(teachers.WORKDIR.value)
    (workdir / "starts").mkdir(parents=True, exist_ok=True)
    for name, kind in teachers.chosen().items():
        if missing := [cell for cell in asked(name, kind) if not cell.path(workdir).exists()]:
            teacher, told = teachers.load(workdir, name)
            known = {
                "teacher_accuracy": told["accuracy"],
                "teacher_seen": told["seen"],
                "command": shlex.join(sys.argv),
            }
            bench = Bench(teacher, teachers.dataset(kind.dataset), workdir / name)
            for cell, result in run(bench, missing):
                print(json.dumps({**cell._asdict(), **result}), flush=True)
                content = {**cell._asdict(), **result, **known, "versions": machine.versions()}
                files.write_json(cell.path(workdir), content)
    text = table(found(workdir))
    files.write_text(workdir / "starts.md", text + "\n")
    print(text)


if __name__ == "__main__":
    app.run(main)
