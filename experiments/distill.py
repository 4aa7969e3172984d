"""Distil a teacher into a student without its data, by SSD-KD or another method (configs/digits.py:dafl).

    python experiments/distill.py --config=configs/digits.py --workdir=runs/digits

Trains the teacher first where the config names no checkpoint. Started again after a kill, it goes
on from the newest checkpoint and ends with the same bits; so it does after SIGTERM, at which it
saves and exits with code 75. Real images are used to train that
teacher, to measure accuracy, and for the yardstick at the end; the student never sees one.
"""

from __future__ import annotations

from ssdkd_jax.engine import environment

environment.prepare()

from ssdkd_jax.engine import preemption

preemption.install()

from pathlib import Path

import common
from absl import flags

from ssdkd_jax import data
from ssdkd_jax.engine import hosts
from ssdkd_jax.report import progress
from ssdkd_jax.run import pipeline, summary

SECONDS = "What summary.json's seconds are; 'cpu' where others use the machine."
CLOCK = flags.DEFINE_enum("clock", "wall", list(progress.CLOCKS), SECONDS)


def main() -> None:
    """Claim the folder, run, and print the scores."""
    config, workdir = common.config(), Path(common.WORKDIR.value)
    with common.claimed(workdir):
        clock = progress.Stopwatch({"start": environment.seconds_since_start()}, CLOCK.value)
        with clock("data"):
            dataset = data.load(config.data.name, config.data.folder)
        found = pipeline.run(config, dataset, workdir, clock, common.stop)
    if hosts.is_first():
        print(f"{summary.sentence(found)}; {clock.total:.0f} s; see {workdir}/summary.json")


if __name__ == "__main__":
    common.launch(main)
