"""The yardsticks of a data-free run: what the student learns from real images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ssdkd_jax import augment, build, settings, student
from ssdkd_jax.engine import dispatch, keys, optimization, parallel, preemption, supervised
from ssdkd_jax.engine.keys import Stage
from ssdkd_jax.interop.saved import Classifier
from ssdkd_jax.models import shares
from ssdkd_jax.report import progress
from ssdkd_jax.run import evaluation

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from ssdkd_jax.data import Dataset


def told(
    config: ConfigDict,
    dataset: Dataset,
    teacher: Classifier,
    score: str,
    clock: progress.Stopwatch,
    stop: Callable[[], bool] = dispatch.never,
) -> dict[str, float]:
    """The `score` of the student that learns from real images, where the config asks for it."""
    if not config.yardstick_steps:
        return {}
    with clock("yardstick"):
        return {f"real_subset_{score}": train(config, dataset, teacher, stop)}


def train(
    config: ConfigDict, dataset: Dataset, teacher: Classifier, stop: Callable[[], bool] = dispatch.never
) -> float:
    """Score of the student trained on as many real images, evenly over classes, as the buffer holds.

    Args:
        config: with global batches, see `build.for_devices`.
        teacher: of the distilled student, which takes the same images.
        stop: asked between dispatches.

    Raises:
        Preempted: where `stop` said so.
    """
    task = build.task(config, teacher.classes)
    network = shares.student(config.student.model, teacher.inputs, teacher.network, compute=config.compute)
    recipe = recipe_of(config)
    key = keys.of_seed(config.seed)
    key_init, key_fit = (keys.of_stage(key, stage) for stage in (Stage.YARDSTICK_INIT, Stage.YARDSTICK_TRAINING))
    subset = even_subset(dataset.train_labels, config.buffer.size, config.seed)
    images, labels = dataset.train_images[subset], dataset.train_labels[subset]
    state = parallel.to_devices(parallel.quick_jit(partial(optimization.init, network, recipe.tx))(key_init))
    visits = config.yardstick_steps * recipe.batch
    state = supervised.fit(network, task, recipe, state, images, labels, key_fit, lambda *_: None, stop, visits)
    if int(parallel.unreplicate(state.step)) < config.yardstick_steps:
        raise preemption.Preempted("Stopped by SIGTERM while measuring the yardstick; the same command goes on there.")
    return evaluation.evaluator(config, network, dataset)(state.variables)[task.score]


def recipe_of(config: ConfigDict) -> supervised.Recipe:
    """The student's, for one pass over the real subset repeated to `yardstick_steps` batches."""
    settings_of_student = settings.Reader(config)(student.Settings)
    tx = settings_of_student.descent(config.yardstick_steps)
    view = augment.make(config.teacher.flip, config.teacher.shift, config.data.crop)
    devices = parallel.total_devices()
    batch = max(devices, min(settings_of_student.batch, config.buffer.size) // devices * devices)
    return supervised.Recipe(epochs=1, batch=batch, tx=tx, view=view, max_skipped=config.schedule.max_skipped)


def even_subset(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """`size` positions, as evenly over the classes as it goes, in random order within each.

    Args:
        labels: [M]; images whose pixels are labelled, [M, H, W], are drawn evenly over the set.
    """
    labels = labels if labels.ndim == 1 else np.zeros(len(labels), np.int32)
    order = np.random.default_rng(seed).permutation(len(labels))
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        rank[of_class] = np.arange(len(of_class))
    return order[np.argsort(rank[order], kind="stable")[:size]]


def given_images(config: ConfigDict, dataset: Dataset) -> np.ndarray:
    """The real images that the yardstick 'given' distils on; no other method is handed them by `build`."""
    if config.given.images < 0:
        return dataset.train_images
    size = config.given.images or config.buffer.size
    return dataset.train_images[even_subset(dataset.train_labels, size, config.seed)]
