"""Many runs of distill.py, each a process of its own: one line per run, and a finished run is not run again."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import plans
from absl import flags
from ml_collections import ConfigDict

from ssdkd_jax import settings
from ssdkd_jax.engine import environment, files
from ssdkd_jax.errors import InputError
from ssdkd_jax.run import identity

HERE = Path(__file__).parent
PATHS = ("data.folder", "teacher.checkpoint")  # the same files may lie elsewhere
CLOCK = flags.DEFINE_enum("clock", "wall", ["wall", "cpu"], "What a second is.")
JOBS = flags.DEFINE_integer("jobs", 1, "Runs at once, each on its share of the processors.", lower_bound=1)


class Run(NamedTuple):
    """A distillation: where it lands below the working folder, and its whole configuration."""

    folder: str
    config: ConfigDict


def begin(workdir: Path, config: ConfigDict) -> None:
    """Create a working folder of runs that share a config and a clock.

    Raises:
        InputError: where it is that of another config or clock.
    """
    plans.claim(workdir, {**settings.flat(config), "--clock": CLOCK.value})


def train_teacher(workdir: Path, config: ConfigDict) -> Path:
    """The teacher that all runs share, trained under `workdir` where the config names none."""
    if config.teacher.checkpoint:
        return Path(config.teacher.checkpoint)
    execute("train_teacher.py", config, workdir, workdir / "teacher.log")  # at once where it is there
    return workdir / "teacher"


def run_all(workdir: Path, planned: Sequence[Run]) -> Iterator[dict | None]:
    """The summary of each run in the given order, None for one that failed; --jobs of them run at once.

    Raises:
        InputError: for more jobs than processors, or where a folder holds a run of another config.
    """
    for run in planned:
        finished(workdir, run)
    cores = sorted(os.sched_getaffinity(0)) if plans.LINUX else range(os.cpu_count() or 1)
    shares = queue.SimpleQueue()
    for share in shared_out(cores, JOBS.value):
        shares.put(share)

    def with_place(place: int, run: Run) -> dict | None:
        return run_one(workdir, run, f"[{place}/{len(planned)}]")

    with ThreadPoolExecutor(JOBS.value, initializer=lambda: plans.stay_on(shares.get())) as pool:
        yield from pool.map(with_place, range(1, len(planned) + 1), planned)


def shared_out(cores: Sequence[int], jobs: int) -> list[Sequence[int]]:
    """Processors dealt out to `jobs` runs.

    Raises:
        ValueError: for more jobs than processors.
    """
    if jobs > len(cores):
        raise InputError(f"--jobs={jobs}, but this process may use {len(cores)} processors; give at most that many.")
    return [cores[first::jobs] for first in range(jobs)]


def run_one(workdir: Path, run: Run, prefix: str) -> dict | None:
    """The summary of a run, with one line about it; None where it failed."""
    folder, started = workdir / run.folder, time.monotonic()
    path, log = folder / "summary.json", folder / "log.txt"
    if summary := finished(workdir, run):
        return summary
    folder.mkdir(parents=True, exist_ok=True)
    try:
        execute("distill.py", run.config, folder, log, f"--clock={CLOCK.value}")
    except subprocess.CalledProcessError:
        print(f"{prefix} {run.folder}: failed; {last_line(log)}", flush=True)
        return None
    summary = json.loads(path.read_text())
    seconds, reached = summary["seconds"], summary[f"student_{summary['score']}"]
    print(
        f"{prefix} {run.folder}: {100 * reached:.2f} % after "
        f"{seconds['synthesis']:.1f} s of synthesis and {seconds['distillation']:.1f} s of distillation "
        f"(compilation {seconds['compilation']:.1f} s, the whole process {time.monotonic() - started:.0f} s)",
        flush=True,
    )
    return summary


def finished(workdir: Path, run: Run) -> dict | None:
    """The summary of a run that is at its end; None where it is not.

    Raises:
        InputError: where it is that of another config.
    """
    path = workdir / run.folder / "summary.json"
    if not path.exists():
        return None
    summary = json.loads(path.read_text())
    then, now = ({k: v for k, v in settings.flat(c).items() if k not in PATHS} for c in (summary["config"], run.config))
    identity.check(then, now, path.parent, "choose another --workdir")
    return summary


def execute(script: str, config: ConfigDict, workdir: Path, log: Path, *flags_: str) -> None:
    """Run a script of this folder to its end with this config, stored as config.json; its output in `log`.

    Raises:
        subprocess.CalledProcessError: where it fails.
    """
    path = workdir / "config.json"
    files.write_json(path, config.to_dict())
    stored = f"--config={HERE / 'stored.py'}:{path}"
    command = [sys.executable, str(HERE / script), stored, f"--workdir={workdir}", *flags_]
    inherited = {name: value for name, value in os.environ.items() if name != environment.MARK or value == "0"}
    with open(files.edit(log, os.O_APPEND), "a") as output:
        subprocess.run(command, check=True, env=inherited, stdout=output, stderr=subprocess.STDOUT)


def last_line(path: Path) -> str:
    """The last line of a text file that says something."""
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    return lines[-1] if lines else ""
