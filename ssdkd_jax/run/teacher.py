"""The teacher of a run: loaded from a checkpoint, or trained on real images first."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from ssdkd_jax import build
from ssdkd_jax.engine import checkpoint, dispatch, hosts, keys, optimization, parallel, preemption, supervised
from ssdkd_jax.engine.keys import Stage
from ssdkd_jax.interop import saved
from ssdkd_jax.report import progress
from ssdkd_jax.run import evaluation
from ssdkd_jax.types import Inputs, ModelState, Network, Variables

if TYPE_CHECKING:
    from ssdkd_jax.data import Dataset

log = logging.getLogger(__name__)


class Teacher(NamedTuple):
    """A teacher, and what it and its student take: images normalised by the teacher's own mean and std."""

    network: Network
    variables: Variables
    inputs: Inputs


def obtain(
    config: ConfigDict,
    dataset: Dataset,
    workdir: Path,
    clock: progress.Stopwatch,
    stop: Callable[[], bool] = dispatch.never,
) -> Teacher:
    """The teacher that the config names, or the one under the workdir, trained first where there is none.

    Raises:
        FileNotFoundError, ValueError: as `saved.load_for`.
        Preempted: as `train`.
    """
    inputs = evaluation.inputs(config, dataset)
    folder = Path(config.teacher.checkpoint or workdir / "teacher")
    if not config.teacher.checkpoint and not checkpoint.steps(folder):
        with clock("teacher"):
            train(config, dataset, workdir, stop)
    found = saved.load_for(inputs, folder, config.teacher.model, config.compute)
    mean, std = tuple(found.note["mean"]), tuple(found.note["std"])
    if not (np.allclose(mean, inputs.mean) and np.allclose(std, inputs.std)):
        log.warning(
            "The teacher in %s normalises images with mean %s and std %s, not the data set's %s and %s; "
            "so does its student.",
            *(folder, mean, std, tuple(inputs.mean), tuple(inputs.std)),
        )
    return Teacher(found.network, dict(found.variables), inputs._replace(mean=mean, std=std))


def train(config: ConfigDict, dataset: Dataset, workdir: Path, stop: Callable[[], bool] = dispatch.never) -> float:
    """Train the teacher on the real images, save it under the workdir, and return its score on the test images.

    Args:
        config: with global batches, see `build.for_devices`.
        stop: asked between dispatches.

    Raises:
        Preempted: where `stop` said so, and what was learnt is saved; called again, it goes on.
    """
    inputs = evaluation.inputs(config, dataset)
    network = build.network(config.teacher.model, inputs, compute=config.compute)
    task = build.task(config, inputs.classes)
    parallel.check_batch("teacher.batch", config.teacher.batch)
    images, labels = dataset.train_images, dataset.train_labels
    recipe = build.teacher_recipe(config, len(images))
    epoch_steps = max(1, len(images) // recipe.batch)
    key = keys.of_seed(config.seed)
    key_init, key_fit = (keys.of_stage(key, stage) for stage in (Stage.TEACHER_INIT, Stage.TEACHER_TRAINING))
    folder = workdir / "teacher_training"
    state = parallel.quick_jit(partial(optimization.init, network, recipe.tx))(key_init)
    _, state, _ = checkpoint.restore(folder, state) or (0, state, {})
    saver = checkpoint.Saver(folder, config.schedule.checkpoint_seconds)
    done = int(state.step) // epoch_steps
    with progress.progress("teacher", recipe.epochs, done, hosts.is_first()) as advance:

        def on_epoch(epoch: int, state: ModelState, metrics: dict[str, float]) -> None:
            advance(metrics)
            saver.now_and_then(epoch * epoch_steps, state, {})

        state = parallel.to_devices(state)
        state = supervised.fit(network, task, recipe, state, images, labels, key_fit, on_epoch, stop)
    steps = int(parallel.unreplicate(state.step))
    if steps < recipe.epochs * epoch_steps:
        saver.now(steps, state, {})
        raise preemption.Preempted(f"Stopped by SIGTERM after {steps} steps of the teacher; the same command goes on.")
    parallel.check_replicated(state)
    score = evaluation.evaluator(config, network, dataset)(state.variables)[task.score]
    variables = parallel.to_host(state.variables)
    saved.save(workdir / "teacher", variables, saved.note(config.teacher.model, inputs, **{task.score: score}))
    return score
