"""The runs of compare_pytorch.py: what is compared, in which order, each as a process, and what is written of all."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import levels as tables
import meter
import plans
from ml_collections import ConfigDict

from ssdkd_jax import presets
from ssdkd_jax.engine import environment, files
from ssdkd_jax.errors import InputError

HERE, CLOSE = Path(__file__).resolve().parent, 1e-3


class Variant(NamedTuple):
    """One of what is compared: its name, whose it is, and what its job says besides."""

    name: str
    side: str
    job: Mapping[str, Any]
    config: ConfigDict | None = None


def variants(config: ConfigDict, batches: Sequence[int], every: int) -> list[Variant]:
    """All that can be compared: the peer's and ours by turns."""
    often = max(1, every // config.schedule.distill_steps)
    fast = presets.apply(config.copy_and_resolve_references(), "fast_dfkd_5")
    kinds = {"ours": (config, "teacher"), "ours_random_start": (config, "random"), "ours_fast_dfkd": (fast, "teacher")}
    ours = [
        Variant(name, "ours", {}, plans.configured(base, schedule__evaluate_every=often, student__start=start))
        for name, (base, start) in kinds.items()
    ]
    peers = [Variant(f"peer_{batch}", "peer", {"batch": batch}) for batch in batches]
    return [one for pair in zip_longest(peers, ours) for one in pair if one]


def planned(known: Sequence[Variant], named: Sequence[str], seeds: int) -> list[tuple[Variant, int]]:
    """The runs in their order: seed by seed, of the variants that are named, all where none is.

    Raises:
        InputError: for a name that is not known.
    """
    names = [variant.name for variant in known]
    if wrong := [name for name in named if name not in names]:
        raise InputError(f"--variants names '{wrong[0]}'; known are {', '.join(names)}.")
    chosen = [variant for variant in known if variant.name in (named or names)]
    return [(variant, seed) for seed in range(seeds) for variant in chosen]


def check_peer(workdir: Path, job: Mapping[str, Any]) -> None:
    """Raise InputError where the teacher in the peer's class is not the same function, or cannot be made."""
    files.write_json(workdir / "job.json", dict(job))
    done = started("peer.py", workdir, job["threads"], "--check", stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise InputError(f"The peer's code in '{job['peer']}' does not run here; mend what is told above.")
    difference = float(done.stdout.split()[-1])
    if not difference <= CLOSE:
        raise InputError(
            f"The teacher's logits in the peer's class differ from ours by {difference:.3g}, more than {CLOSE:g}; name "
            "a teacher whose architecture the peer has."
        )
    print(f"The teacher's logits differ by at most {difference:.2g} between the two.", flush=True)


def run(folder: Path, variant: Variant, job: Mapping[str, Any]) -> None:
    """Run a variant to its end where it is not there, and say what came of it."""
    if (folder / "run.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    root = {"peer": job["peer"], "ours": str(HERE)}[variant.side]
    told = {"variant": variant.name, "side": variant.side, "commit": commit(root), "command": shlex.join(sys.argv)}
    files.write_json(folder / "job.json", {**job, **variant.job, **told})
    if variant.config is not None:
        teacher = str(Path(variant.config.teacher.checkpoint).resolve())
        config = plans.configured(variant.config, seed=job["seed"], teacher__checkpoint=teacher)
        files.write_json(folder / "config.json", config.to_dict())
    with open(folder / "log.txt", "w") as log:
        done = started(f"{variant.side}.py", folder, job["threads"], stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise InputError(f"The run in '{folder}' failed; its log.txt tells why. Start again to go on.")
    found = json.loads((folder / "run.json").read_text())
    times = ", ".join(f"{100 * level:g} %: {tables.taken(found, level).text('{:.1f} s')}" for level in job["levels"])
    print(f"{variant.name}, seed {job['seed']}: {times}; last {tables.last(found)} s", flush=True)


def started(script: str, folder: Path, threads: int, *words: str, **options: Any) -> subprocess.CompletedProcess:
    """Run a script of this folder, which finds no compiled program and learns when it was started."""
    left_out = ("JAX_COMPILATION_CACHE_DIR", environment.MARK)
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    inherited["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    inherited["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, str(HERE / script), str(folder), *words]
    return subprocess.run(command, env={**inherited, meter.STARTED: str(time.time())}, check=False, **options)


def commit(folder: str) -> str:
    """The commit of a checkout, '+' where files of it have changed; '' where it is none."""
    words = ["git", "-C", folder, "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def write(workdir: Path, wanted: Sequence[float]) -> str:
    """Tables and plot of all runs that the workdir holds."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(workdir.glob("*/*/run.json"), key=lambda path: int(path.parent.name)):
        found.setdefault(path.parts[-3], []).append(json.loads(path.read_text()))
    text = f"{tables.seconds(found, wanted)}\n\n{tables.ratios(found, wanted)}\n"
    files.write_text(workdir / "comparison.md", text)
    tables.plot(workdir / "comparison.png", found, wanted)
    return text
