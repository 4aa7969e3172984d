"""Distil a teacher into a student without its data, by SSD-KD or another method.

    ssdkd distill --teacher=FOLDER --student=wrn10_1 --workdir=DIR
    ssdkd distill --config=configs/digits.py --workdir=runs/digits

With --config, the teacher is trained first where the config names no checkpoint; without it, eight rules choose the
settings (`ssdkd_jax.default_config`), and any of them is overridden as --config.x.y=v. Real images train that teacher,
measure accuracy, and feed a yardstick at the end; the student never sees one. Where there are none, the run does
without.

Started again after a kill, it goes on from the newest checkpoint and ends with the same bits; so it does after SIGTERM,
at which it saves and exits with code 75.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from ssdkd_jax.api import rules
from ssdkd_jax.api.teachers import Teacher
from ssdkd_jax.cli import launch as shared
from ssdkd_jax.engine import environment, hosts, preemption
from ssdkd_jax.errors import InputError
from ssdkd_jax.report import progress
from ssdkd_jax.run import pipeline, summary
from ssdkd_jax.run import teacher as teachers

if TYPE_CHECKING:
    from ml_collections import ConfigDict

SECONDS = "What summary.json's seconds are; 'cpu' where others use the machine."
SAME = {"teacher": "teacher.checkpoint", "student": "student.model"}


def launch() -> None:
    """Define the flags, parse them, and run."""
    flags.DEFINE_string("teacher", None, "Folder of the saved teacher; the same as --config.teacher.checkpoint.")
    flags.DEFINE_string(
        "student",
        None,
        "Name of the student, or a share of its teacher's channels, 0.5; the same as --config.student.model.",
    )
    flags.DEFINE_enum("clock", "wall", list(progress.CLOCKS), SECONDS)
    preemption.install()
    shared.launch(main, documented=sys.modules[__name__], prepared=with_config)


def with_config(argv: list[str]) -> list[str]:
    """The command line with a config, and with --teacher and --student as fields of it."""
    given = shared.with_defaults(argv)
    words = list(given)
    for word, following in zip(given, [*given[1:], ""], strict=True):
        name, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-") and name in SAME:
            words.append(f"--config.{SAME[name]}={value if equals else following}")
    return words


def main() -> None:
    """Claim the folder, run, and print the scores."""
    config, workdir = chosen(), Path(shared.WORKDIR.value)
    with shared.claimed(workdir):
        clock = progress.Stopwatch({"start": environment.seconds_since_start()}, flags.FLAGS.clock)
        with clock("data"):
            dataset = shared.dataset(config)
        found = pipeline.run(config, dataset, workdir, clock, shared.stop)
    if hosts.is_first():
        print(f"{summary.sentence(found)}; {clock.total:.0f} s; see {workdir}/summary.json")


def chosen() -> ConfigDict:
    """The config that is named; or that of the eight rules, with what the command line sets."""
    config = shared.before_rules()
    if not shared.without_config():
        return config
    if not config.teacher.checkpoint:
        raise InputError("No teacher is named; give --teacher=FOLDER, or a --config that trains one.")
    teacher = Teacher.load(config.teacher.checkpoint, teachers.named(config))
    ruled = rules.default_config(teacher, config.student.model, config.task.name)
    ruled.update_from_flattened_dict(shared.overridden())
    if "schedule.warmup" not in shared.overridden():
        rules.leave_a_round(ruled)
    ruled.teacher.model = teacher.name
    shared.check(ruled)
    return ruled
