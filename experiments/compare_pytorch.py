"""Fast-DFKD's own PyTorch code beside ours: seconds from the start of a process to a level of accuracy.

    git clone https://github.com/zju-vipa/Fast-Datafree peer
    pip install torch torchvision kornia termcolor tqdm
    python experiments/compare_pytorch.py --peer=peer --config=configs/fashion_mnist.py --workdir=runs/comparison \
      --config.teacher.checkpoint=FOLDER --seeds=3

The same teacher, the same student architecture, the same processors and threads. Runs alternate, seed by seed: the
peer's, ours. Each is a process of its own that finds no compiled program, and begins its clock when it is started.
Evaluation on the real test images is outside the clock, all else inside. A level counts when two evaluations in a row
have it, at the first of them; a run ends when the highest level counts, or its seconds are spent.

    peer_N             its published settings (the line of scripts/fast_cifar.sh that --tag names), with a batch of N
    ours               the config, its student started from the teacher in closed form
    ours_random_start  the config, its student started at random
    ours_fast_dfkd     our Fast-DFKD, its student started from the teacher in closed form

Nothing starts where the teacher's logits in the peer's classes differ from ours. Finished runs are not run again. Each
leaves run.json; comparison.md and comparison.png are written anew after each.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import levels as tables
import meter
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from ssdkd_jax import data, presets, settings
from ssdkd_jax.cli import launch
from ssdkd_jax.engine import environment, files
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import saved
from ssdkd_jax.interop.saved import Classifier
from ssdkd_jax.run import evaluation, identity

HERE = Path(__file__).resolve().parent
PEER = flags.DEFINE_string("peer", None, "Folder of a clone of zju-vipa/Fast-Datafree.")
TAG = flags.DEFINE_string("tag", "wrn-5", "--log_tag of a line of the peer's scripts/fast_cifar.sh.")
BATCHES = flags.DEFINE_list("batches", ["256", "128"], "The peer's batches; 256 is that of its scripts.")
VARIANTS = flags.DEFINE_list("variants", [], "These alone; all where none is named.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds 0, 1, ... of each variant.", lower_bound=1)
LEVELS = flags.DEFINE_list("levels", ["0.875", "0.901"], "Accuracies.")
SECONDS = flags.DEFINE_float("seconds", 3600.0, "What a run may take.", lower_bound=1.0)
EVERY = flags.DEFINE_integer("every", 24, "Steps of the student between evaluations, about.", lower_bound=1)
THREADS = flags.DEFINE_integer("threads", 2, "Processors and threads of each run.", lower_bound=1)
CLOSE, PROBED = 1e-3, 256


class Variant(NamedTuple):
    """One of what is compared: its name, whose it is, and what its job says besides."""

    name: str
    side: str
    job: Mapping[str, Any]
    config: ConfigDict | None = None


def main() -> None:
    """Run what is missing, and print what there is."""
    workdir, config, peer = Path(launch.WORKDIR.value), launch.config(), str(Path(PEER.value).resolve())
    if not config.teacher.checkpoint:
        raise InputError("No teacher is named; give --config.teacher.checkpoint=FOLDER.")
    workdir.mkdir(parents=True, exist_ok=True)
    claim(workdir, {**settings.flat(config), **asked()})
    stay_on(THREADS.value)
    job = {**asked(), **inputs_of(workdir, config), "peer": peer}
    check_peer(workdir, job)
    known = variants(config, [int(batch) for batch in BATCHES.value], EVERY.value)
    for variant, seed in planned(known, VARIANTS.value, SEEDS.value):
        run(workdir / variant.name / str(seed), variant, {**job, "seed": seed})
        write(workdir, job["levels"])
    print(write(workdir, job["levels"]))


def asked() -> dict[str, Any]:
    """What all runs of a workdir share."""
    levels = sorted(float(level) for level in LEVELS.value)
    shared = {"seconds": SECONDS.value, "every": EVERY.value, "threads": THREADS.value}
    return {"tag": TAG.value, "levels": levels, **shared}


def claim(workdir: Path, plan: dict[str, Any]) -> None:
    """Keep the plan in its folder.

    Raises:
        InputError: where the folder holds another.
    """
    path = workdir / "plan.json"
    if path.exists():
        identity.check(json.loads(path.read_text()), plan, workdir, "choose another --workdir")
    files.write_json(path, plan)


def stay_on(threads: int) -> None:
    """Keep this process, and what it starts, on so many processors where the system can do that.

    Raises:
        InputError: where there are fewer.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = sorted(os.sched_getaffinity(0))
    if threads > len(allowed):
        raise InputError(f"--threads={threads}, but this process may use {len(allowed)} processors; give at most that.")
    os.sched_setaffinity(0, allowed[:threads])


def inputs_of(workdir: Path, config: ConfigDict) -> dict[str, Any]:
    """Write what the runs read, the teacher for PyTorch and the test images, and tell where and of what shape it is."""
    dataset = data.load(config.data.name, config.data.folder)
    found = evaluation.inputs(config, dataset)
    teacher = saved.load_for(found, config.teacher.checkpoint, config.teacher.model, config.compute)
    names = {"teacher_file": "teacher.pth", "test_file": "test.npz", "probe_file": "probe.npz"}
    paths = {what: str((workdir / name).resolve()) for what, name in names.items()}
    teacher.export(paths["teacher_file"])
    np.savez(paths["test_file"], images=dataset.test_images, labels=dataset.test_labels)
    probe = dataset.test_images[:PROBED]
    np.savez(paths["probe_file"], images=probe, logits=np.asarray(teacher(probe)))
    return {**paths, **shapes(teacher), "student_model": config.student.model}


def shapes(teacher: Classifier) -> dict[str, Any]:
    """What the peer's models are built from."""
    normal = {"mean": list(map(float, teacher.mean)), "std": list(map(float, teacher.std))}
    shape = list(teacher.image_shape)
    return {"teacher_model": teacher.name, "image_shape": shape, "classes": teacher.classes, **normal}


def check_peer(workdir: Path, job: Mapping[str, Any]) -> None:
    """Raise InputError where the teacher in the peer's class is not the same function, or cannot be made."""
    files.write_json(workdir / "job.json", dict(job))
    done = started("peer.py", workdir, "--check", stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise InputError(f"The peer's code in '{job['peer']}' does not run here; mend what is told above.")
    difference = float(done.stdout.split()[-1])
    if not difference <= CLOSE:
        raise InputError(
            f"The teacher's logits in the peer's class differ from ours by {difference:.3g}, more than {CLOSE:g}; name "
            "a teacher whose architecture the peer has."
        )
    print(f"The teacher's logits differ by at most {difference:.2g} between the two.", flush=True)


def variants(config: ConfigDict, batches: Sequence[int], every: int) -> list[Variant]:
    """All that can be compared: the peer's and ours by turns."""
    evaluated = {"schedule.evaluate_every": max(1, every // config.schedule.distill_steps)}
    fast = presets.apply(config.copy_and_resolve_references(), "fast_dfkd_5")
    kinds = {"ours": (config, "teacher"), "ours_random_start": (config, "random"), "ours_fast_dfkd": (fast, "teacher")}
    ours = []
    for name, (base, start) in kinds.items():
        changed = base.copy_and_resolve_references()
        changed.update_from_flattened_dict({**evaluated, "student.start": start})
        ours.append(Variant(name, "ours", {}, changed))
    peers = [Variant(f"peer_{batch}", "peer", {"batch": batch}) for batch in batches]
    return [one for pair in zip_longest(peers, ours) for one in pair if one]


def planned(known: Sequence[Variant], named: Sequence[str], seeds: int) -> Iterable[tuple[Variant, int]]:
    """The runs in their order: seed by seed, of the variants that are named, all where none is.

    Raises:
        InputError: for a name that is not known.
    """
    names = [variant.name for variant in known]
    if wrong := [name for name in named if name not in names]:
        raise InputError(f"--variants names '{wrong[0]}'; known are {', '.join(names)}.")
    chosen = [variant for variant in known if variant.name in (named or names)]
    return [(variant, seed) for seed in range(seeds) for variant in chosen]


def run(folder: Path, variant: Variant, job: Mapping[str, Any]) -> None:
    """Run a variant to its end where it is not there, and say what came of it."""
    if (folder / "run.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    root = {"peer": job["peer"], "ours": str(HERE)}[variant.side]
    told = {"variant": variant.name, "side": variant.side, "commit": commit(root), "command": shlex.join(sys.argv)}
    files.write_json(folder / "job.json", {**job, **variant.job, **told})
    if variant.config is not None:
        config = variant.config.copy_and_resolve_references()
        config.seed, config.teacher.checkpoint = job["seed"], str(Path(config.teacher.checkpoint).resolve())
        files.write_json(folder / "config.json", config.to_dict())
    with open(folder / "log.txt", "w") as log:
        done = started(f"{variant.side}.py", folder, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise InputError(f"The run in '{folder}' failed; its log.txt tells why. Start again to go on.")
    found = json.loads((folder / "run.json").read_text())
    times = ", ".join(f"{100 * level:g} %: {tables.taken(found, level).text('{:.1f} s')}" for level in job["levels"])
    print(f"{variant.name}, seed {job['seed']}: {times}; last {tables.last(found)} s", flush=True)


def started(script: str, folder: Path, *words: str, **options: Any) -> subprocess.CompletedProcess:
    """Run a script of this folder, which finds no compiled program and learns when it was started."""
    left_out = ("JAX_COMPILATION_CACHE_DIR", environment.MARK)
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    inherited["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    inherited["OMP_NUM_THREADS"] = str(THREADS.value)
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


if __name__ == "__main__":
    launch.launch(main, ("config", "workdir", "peer"))
