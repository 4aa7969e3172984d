"""Training on labelled images: the teacher beforehand, and the real-image yardstick afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax

from ssdkd_jax import augment
from ssdkd_jax.engine import dispatch, guard, hosts, optimization, parallel
from ssdkd_jax.errors import InputError
from ssdkd_jax.types import Array, Key, Metrics, ModelState, Network, Task

STAGE = "supervised"
Step = Callable[[ModelState, Array, Array, Array, Key], tuple[ModelState, Metrics]]


class Recipe(NamedTuple):
    """How a network is fitted to labelled images.

    Attributes:
        epochs: passes over the images.
        batch: global batch.
        tx: the optimiser.
        view: augmentation.
        max_skipped: how many steps in a row that are not finite stop the training.
    """

    epochs: int
    batch: int
    tx: optax.GradientTransformation
    view: augment.View
    max_skipped: int = 1


def make_step(network: Network, task: Task, recipe: Recipe, axis: str | None) -> Step:
    """(state, images uint8 [M, H, W, D], labels [M, ...], order [K], key) -> (state, the batch's summed metrics).

    An epoch visits the images of `order`, one after the other, and leaves out the last, incomplete batch.
    """

    def step(state: ModelState, images: Array, labels: Array, order: Array, key: Key) -> tuple[ModelState, Metrics]:
        index = state.step % (order.shape[0] // recipe.batch)
        rows = parallel.local_rows(jax.lax.dynamic_slice_in_dim(order, index * recipe.batch, recipe.batch), axis)
        key_views, key_layers = jax.random.split(jax.random.fold_in(key, state.step))
        keys = parallel.local_rows(jax.random.split(key_views, recipe.batch), axis)
        view = augment.with_labels(recipe.view)
        x, y = jax.vmap(view)(keys, augment.to_float(images[rows]), labels[rows])

        def loss(params: dict) -> tuple[Array, tuple]:
            logits, variables = network.train(
                {**state.variables, "params": params}, x, parallel.local_key(key_layers, axis)
            )
            metrics = task.metrics(logits, y)
            return metrics["loss"].mean(), (variables, {name: value.sum(0) for name, value in metrics.items()})

        state, (sums,) = optimization.update(state, recipe.tx, loss, axis)
        return state, parallel.total(sums, axis)

    return step


def shuffled(key: Key, visits: int, images: int) -> Array:
    """Which of so many images an epoch visits, in random order, each as often as the next or once more: int32 [K]."""
    return jax.random.permutation(key, visits) % images


def check_batch(images: int, batch: int) -> None:
    """Raise InputError where there are fewer images than a batch."""
    if images < batch:
        raise InputError(f"{images} images are fewer than one batch of {batch}; lower the batch size.")


def fit(
    network: Network,
    task: Task,
    recipe: Recipe,
    state: ModelState,
    images: np.ndarray,
    labels: np.ndarray,
    key: Key,
    on_epoch: Callable[[int, ModelState, dict[str, float]], None],
    stop: Callable[[], bool] = dispatch.never,
    visits: int | None = None,
) -> ModelState:
    """Run the recipe from wherever `state` stands, also within an epoch.

    Args:
        network: bound to `parallel.AXIS`.
        state: placed on the devices (`parallel.to_devices`).
        images, labels: the whole set, uint8 [M, H, W, D] and int [M] (dense tasks [M, H, W]).
        on_epoch: called with (epochs done, state, the task's scores) after each.
        stop: asked between dispatches, with several hosts before each epoch; once it says so, the state is returned
            as it then is.
        visits: images that an epoch looks at, going through the set as often as that takes; None: each once.

    Raises:
        ValueError: when an epoch is less than a batch.
        FloatingPointError: after `recipe.max_skipped` steps in a row that were not finite.
    """
    visits = len(images) if visits is None else visits
    check_batch(visits, recipe.batch)
    steps = visits // recipe.batch
    step = guard.skipping(make_step(network, task, recipe, parallel.AXIS), STAGE, parallel.AXIS)
    epoch_steps, watch = dispatch.repeat(step, steps), guard.Watch(recipe.max_skipped)
    key_order, key_view = jax.random.split(key)
    shuffle = jax.jit(lambda epoch: shuffled(jax.random.fold_in(key_order, epoch), visits, len(images)))
    fixed = parallel.to_devices((images, labels))
    key_view = parallel.to_devices(key_view)
    done = int(parallel.unreplicate(state.step))
    for epoch in range(done // steps, recipe.epochs):
        order = parallel.to_devices(shuffle(epoch))
        rest_of_epoch = epoch_steps._replace(times=(epoch + 1) * steps - done)
        state, history = rest_of_epoch(state, *fixed, order, key_view, stop=hosts.rarely(stop))
        history, done = dispatch.fetch(history), int(parallel.unreplicate(state.step))
        watch.check(STAGE, history, f"epoch {epoch + 1}")
        if done < (epoch + 1) * steps:
            break
        finite = history.pop(STAGE + guard.SKIPPED) == 0
        sums = {name: values[finite].sum(0, np.float64) for name, values in history.items()}
        on_epoch(epoch + 1, state, task.scores(sums, finite.sum() * recipe.batch))
    return state
