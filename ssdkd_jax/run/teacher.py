"""The teacher of a run: loaded from a checkpoint, or trained on real images first."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ssdkd_jax import augment, build
from ssdkd_jax.engine import checkpoint, dispatch, files, hosts, keys, optimization, parallel, preemption, supervised
from ssdkd_jax.engine.keys import Stage
from ssdkd_jax.engine.saver import Saver
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import saved
from ssdkd_jax.interop.saved import Classifier
from ssdkd_jax.report import progress
from ssdkd_jax.run import evaluation, identity
from ssdkd_jax.types import ModelState

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from ssdkd_jax.data import Dataset

log = logging.getLogger(__name__)


def given(config: ConfigDict) -> Classifier:
    """The teacher that the config names, for a run without data: what it says of its inputs is taken as it is.

    Raises:
        MissingError, InputError: as `saved.load`; or where the config names none.
    """
    if not config.teacher.checkpoint:
        raise InputError(
            "data.name = 'none' leaves nothing to train a teacher on; name a saved one by teacher.checkpoint."
        )
    return saved.load(config.teacher.checkpoint, named(config), config.compute)


def named(config: ConfigDict) -> str | None:
    """The model that a saved teacher is to be, where the config names one of one's own; else the folder may tell."""
    return config.teacher.model if ":" in config.teacher.model else None


def obtain(
    config: ConfigDict,
    dataset: Dataset,
    workdir: Path,
    clock: progress.Stopwatch,
    stop: Callable[[], bool] = dispatch.never,
) -> Classifier:
    """The teacher that the config names, or the one under the workdir, trained first where there is none.

    Raises:
        MissingError, InputError: as `saved.load_for` and `to_be_trained`.
        Preempted: as `train`.
    """
    inputs = evaluation.inputs(config, dataset)
    folder = Path(config.teacher.checkpoint or workdir / "teacher")
    if to_be_trained(config, workdir):
        with clock("teacher"):
            train(config, dataset, workdir, stop)
    found = saved.load_for(inputs, folder, config.teacher.model, config.compute)
    if not (np.allclose(found.mean, inputs.mean) and np.allclose(found.std, inputs.std)):
        log.warning(
            "The teacher in %s normalises images with mean %s and std %s, not the data set's %s and %s; "
            "so does its student, and where it was trained on other images than the data set's, their scores here tell "
            "little.",
            *(folder, found.mean, found.std, tuple(inputs.mean), tuple(inputs.std)),
        )
    return found


def to_be_trained(config: ConfigDict, workdir: Path) -> bool:
    """Whether the config names no teacher and the workdir holds none that is finished.

    Raises:
        InputError: as `finished`.
    """
    return not config.teacher.checkpoint and finished(config, workdir) is None


def finished(config: ConfigDict, workdir: Path) -> dict[str, Any] | None:
    """The note of the teacher that was trained in the workdir; None where there is none yet.

    Raises:
        InputError: where it was trained, or begun, under other settings.
    """
    notes = {}
    for name in ("teacher", "teacher_training"):
        if found := checkpoint.newest_whole(workdir / name):
            remedy = f"choose another workdir, or take what is in '{workdir}/teacher' by teacher.checkpoint"
            identity.check(found.note.get("settings"), identity.of_teacher(config), workdir / name, remedy)
            notes[name] = found.note
    return notes.get("teacher")


def untrained(config: ConfigDict, dataset: Dataset) -> Classifier:
    """A teacher that is still to be trained: its variables are shapes.

    Raises:
        InputError: where the images are of a size that the network does not take.
    """
    inputs = evaluation.inputs(config, dataset)
    network = build.network(config.teacher.model, inputs, axis=None, compute=config.compute)
    return Classifier(network, jax.eval_shape(network.init, jax.random.key(0)), inputs, config.teacher.model)


def recipe_of(config: ConfigDict, images: int) -> supervised.Recipe:
    """How the teacher is trained on `images` real images."""
    c = config.teacher
    steps = c.epochs * (images // c.batch)
    tx = optimization.sgd(c.lr, steps, c.weight_decay, c.warmup)
    view = augment.make(c.flip, c.shift, config.data.crop)
    return supervised.Recipe(c.epochs, c.batch, tx, view, config.schedule.max_skipped)


def train(config: ConfigDict, dataset: Dataset, workdir: Path, stop: Callable[[], bool] = dispatch.never) -> float:
    """Train the teacher on the real images, save it under the workdir, and return its score on the test images.

    Args:
        config: with global batches, see `build.for_devices`.
        stop: asked between dispatches.

    Raises:
        InputError: where what the workdir holds was trained under other settings.
        Preempted: where `stop` said so, and what was learnt is saved; called again, it goes on.
    """
    files.refuse_link(workdir / "teacher")
    inputs = evaluation.inputs(config, dataset)
    task, note = build.task(config, inputs.classes), {"settings": identity.of_teacher(config)}
    if done := finished(config, workdir):
        return done[task.score]
    network = build.network(config.teacher.model, inputs, compute=config.compute)
    images, labels = dataset.train_images, dataset.train_labels
    recipe = recipe_of(config, len(images))
    epoch_steps = max(1, len(images) // recipe.batch)
    key = keys.of_seed(config.seed)
    key_init, key_fit = (keys.of_stage(key, stage) for stage in (Stage.TEACHER_INIT, Stage.TEACHER_TRAINING))
    folder = workdir / "teacher_training"
    state = parallel.quick_jit(partial(optimization.init, network, recipe.tx))(key_init)
    _, state, _ = checkpoint.restore(folder, state) or (0, state, {})
    saver = Saver(folder, config.schedule.checkpoint_seconds)
    done = int(state.step) // epoch_steps
    bar = progress.progress("teacher", recipe.epochs, done, hosts.is_first())
    with contextlib.closing(saver), bar as advance:

        def on_epoch(epoch: int, state: ModelState, metrics: dict[str, float]) -> None:
            advance(metrics)
            saver.now_and_then(epoch * epoch_steps, state, note)

        state = parallel.to_devices(state)
        state = supervised.fit(network, task, recipe, state, images, labels, key_fit, on_epoch, stop)
    steps = int(parallel.unreplicate(state.step))
    if steps < recipe.epochs * epoch_steps:
        saver.now(steps, state, note)
        raise preemption.Preempted(f"Stopped by SIGTERM after {steps} steps of the teacher; the same command goes on.")
    parallel.check_replicated(state)
    score = evaluation.evaluator(config, network, dataset)(state.variables)[task.score]
    variables = parallel.to_host(state.variables)
    note |= saved.note(config.teacher.model, inputs, **{task.score: score})
    saved.save(workdir / "teacher", variables, note)
    return score
