"""Metrics of a network on a held-out set, shared out over the devices."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ssdkd_jax import augment
from ssdkd_jax.engine import parallel
from ssdkd_jax.types import Array, Metrics, Network, Task, Variables


def make_step(network: Network, task: Task, axis: str | None) -> Callable[[Variables, Array, Array, Array], Metrics]:
    """(variables, images [B, H, W, D], labels [B], mask [B]) -> summed metrics, over all devices."""

    def step(variables: Variables, images: Array, labels: Array, mask: Array) -> Metrics:
        images = augment.to_float(images) if images.dtype == jnp.uint8 else images
        values = task.metrics(network.apply(variables, images), labels)
        return parallel.total({name: jnp.tensordot(mask, value, 1) for name, value in values.items()}, axis)

    return step


def make(
    network: Network, task: Task, images: np.ndarray, labels: np.ndarray, batch: int
) -> Callable[[Variables], dict[str, float]]:
    """variables (placed on the devices) -> the task's scores on the set.

    Args:
        images: [M, H, W, D], uint8, or float32 in [0, 1].
        labels: int [M] (dense tasks [M, H, W]).
        batch: global batch, rounded up to the devices; the last one is padded and masked.
    """
    batch = parallel.padded(min(batch, len(images)))
    step = parallel.pmap(make_step(network, task, parallel.AXIS))

    def part(array: np.ndarray, start: int) -> np.ndarray:
        rows = array[start : start + batch]
        return parallel.local_parts(np.pad(rows, ((0, batch - len(rows)), *((0, 0),) * (rows.ndim - 1))))

    present = np.ones(len(images), np.float32)

    def evaluate(variables: Variables) -> dict[str, float]:
        sums = [
            step(variables, *(part(array, start) for array in (images, labels, present)))
            for start in range(0, len(images), batch)
        ]
        sums = [jax.device_get(parallel.unreplicate(s)) for s in sums]
        return task.scores({name: sum(np.asarray(s[name], np.float64) for s in sums) for name in sums[0]}, len(images))

    return evaluate
