"""Many runs of distill.py, each a process of its own: one line per run, and a finished run is not run again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from ssdkd_jax import runtime

HERE = Path(__file__).parent


class Run(NamedTuple):
    """A distillation: where it lands below the working folder, how it is called, and its whole configuration."""

    folder: str
    label: str
    config: ConfigDict


def configured(config: ConfigDict, **fields: Any) -> ConfigDict:
    """A copy of `config` with dotted fields set, written a__b for a.b."""
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return changed


def train_teacher(workdir: Path, config: ConfigDict) -> Path:
    """The teacher that all runs share, trained under `workdir` where the config names none."""
    if config.teacher.checkpoint:
        return Path(config.teacher.checkpoint)
    folder = workdir / "teacher"
    if not list(folder.glob("*.json")):
        execute("train_teacher.py", config, workdir, workdir / "teacher.log")
    return folder


def run_all(workdir: Path, runs: Sequence[Run], clock: str = "wall") -> list[dict]:
    """The summaries of the runs, in order; those that failed are left out, with a line that says why."""
    found = []
    for number, run in enumerate(runs, 1):
        found.append(run_one(workdir, run, clock, f"[{number}/{len(runs)}]"))
    return [summary for summary in found if summary]


def run_one(workdir: Path, run: Run, clock: str, prefix: str) -> dict | None:
    """The summary of a run, with its label; None where it failed."""
    folder = workdir / run.folder
    path, started, done = folder / "summary.json", time.monotonic(), "already there"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            execute("distill.py", run.config, folder, folder / "log.txt", f"--clock={clock}")
        except subprocess.CalledProcessError:
            print(f"{prefix} {run.folder}: failed; {last_line(folder / 'log.txt')}", flush=True)
            return None
        done = f"{time.monotonic() - started:.0f} s for the process"
    summary = json.loads(path.read_text())
    seconds = summary["seconds"]
    print(
        f"{prefix} {run.folder}: {100 * summary['student_accuracy']:.2f} % after "
        f"{seconds.get('synthesis', 0):.1f} s of synthesis and {seconds.get('distillation', 0):.1f} s of distillation, "
        f"{seconds.get('compilation', 0):.1f} s of compilation ({done})",
        flush=True,
    )
    return summary | {"label": run.label}


def execute(script: str, config: ConfigDict, workdir: Path, log: Path, *flags_: str) -> None:
    """Run a script of this folder to its end, its output in `log`.

    Raises:
        subprocess.CalledProcessError: where it fails.
    """
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    fields = [f"--config.{name}={value}" for name, value in flat(config).items() if value is not None]
    command = [sys.executable, str(HERE / script), f"--config={file}", f"--workdir={workdir}", *flags_, *fields]
    environment = {name: value for name, value in os.environ.items() if name != runtime.MARK or value == "0"}
    with log.open("a") as output:
        subprocess.run(command, check=True, env=environment, stdout=output, stderr=subprocess.STDOUT)


def flat(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value."""
    fields = {}
    for name, value in config.items():
        inner = isinstance(value, ConfigDict)
        fields |= flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return fields


def last_line(path: Path) -> str:
    """The last line of a text file that says something."""
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    return lines[-1] if lines else ""
