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

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plans
import turns
from absl import flags
from ml_collections import ConfigDict

from ssdkd_jax import data, settings
from ssdkd_jax.cli import launch
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import saved
from ssdkd_jax.interop.saved import Classifier
from ssdkd_jax.run import evaluation

PEER = flags.DEFINE_string("peer", None, "Folder of a clone of zju-vipa/Fast-Datafree.")
TAG = flags.DEFINE_string("tag", "wrn-5", "--log_tag of a line of the peer's scripts/fast_cifar.sh.")
BATCHES = flags.DEFINE_list("batches", ["256", "128"], "The peer's batches; 256 is that of its scripts.")
VARIANTS = flags.DEFINE_list("variants", [], "These alone; all where none is named.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds 0, 1, ... of each variant.", lower_bound=1)
LEVELS = flags.DEFINE_list("levels", ["0.875", "0.901"], "Accuracies.")
SECONDS = flags.DEFINE_float("seconds", 3600.0, "What a run may take.", lower_bound=1.0)
EVERY = flags.DEFINE_integer("every", 24, "Steps of the student between evaluations, about.", lower_bound=1)
THREADS = flags.DEFINE_integer("threads", 2, "Processors and threads of each run.", lower_bound=1)
PROBED = 256


def main() -> None:
    """Run what is missing, and print what there is."""
    workdir, config, peer = Path(launch.WORKDIR.value), launch.config(), str(Path(PEER.value).resolve())
    if not config.teacher.checkpoint:
        raise InputError("No teacher is named; give --config.teacher.checkpoint=FOLDER.")
    batches = numbers(BATCHES, int, 1, math.inf)
    shared = asked()
    plans.claim(workdir, {**settings.flat(config), **shared})
    stay_on(THREADS.value)
    job = {**shared, **inputs_of(workdir, config), "peer": peer}
    turns.check_peer(workdir, job)
    known = turns.variants(config, batches, EVERY.value)
    for variant, seed in turns.planned(known, VARIANTS.value, SEEDS.value):
        turns.run(workdir / variant.name / str(seed), variant, {**job, "seed": seed})
        turns.write(workdir, job["levels"])
    print(turns.write(workdir, job["levels"]))


def asked() -> dict[str, Any]:
    """What all runs of a workdir share."""
    levels = sorted(numbers(LEVELS, float, 0, 1))
    shared = {"seconds": SECONDS.value, "every": EVERY.value, "threads": THREADS.value}
    return {"tag": TAG.value, "levels": levels, **shared}


def numbers(flag: flags.FlagHolder, read: Callable[[str], float], least: float, most: float) -> list:
    """What a flag lists.

    Raises:
        InputError: where that is no number in these bounds.
    """
    try:
        found = [read(word) for word in flag.value]
    except ValueError:
        found = []
    if found and all(least <= number <= most for number in found):
        return found
    asked_for = f"numbers from {least} to {most}" if most < math.inf else f"whole numbers from {least}"
    raise InputError(f"--{flag.name}={','.join(flag.value)} is no list of {asked_for}; give {','.join(flag.default)}.")


def stay_on(threads: int) -> None:
    """Keep this process, and what it starts, on so many processors where the system can do that.

    Raises:
        InputError: where there are fewer.
    """
    if not plans.LINUX:
        return
    allowed = sorted(os.sched_getaffinity(0))
    if threads > len(allowed):
        raise InputError(f"--threads={threads}, but this process may use {len(allowed)} processors; give at most that.")
    plans.stay_on(allowed[:threads])


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


if __name__ == "__main__":
    launch.launch(main, ("config", "workdir", "peer"))
