"""The frozen teacher: its logits, the BatchNorm statistics it sees, and its answers to fixed views."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssdkd_jax import augment
from ssdkd_jax.losses import Moments, batch_moments
from ssdkd_jax.models import observe
from ssdkd_jax.types import Array, Network, Variables

DEFAULT_BN_WEIGHT = 3.0


def apply_with_moments(
    network: Network, variables: Variables, images: Array, axis: str | None = None
) -> tuple[Array, list[Moments]]:
    """Logits, and the moments at the input of every BatchNorm, in the order of execution.

    The layers are intercepted, so that any linen module serves unchanged. Runs in eval mode.

    Args:
        images: [B, H, W, D] in [0, 1].
        axis: pmap axis over which the batch's moments are taken, or None.
    """
    return observe.layers(partial(network.apply, variables, images), nn.BatchNorm, partial(moments, axis=axis))


def moments(layer: nn.BatchNorm, inputs: Array, axis: str | None) -> Moments:
    """The moments of the input of a BatchNorm, beside its running ones."""
    running = (layer.get_variable("batch_stats", name) for name in ("mean", "var"))
    return Moments(*batch_moments(inputs, axis), *running)


def check_batch_norm(variables: Variables, weight: float | None) -> float:
    """The weight of the BatchNorm term that this teacher allows.

    Args:
        weight: as configured; None asks for the term only where the teacher has BatchNorm.

    Raises:
        ValueError: when the term is asked for and the teacher has no BatchNorm.
    """
    if jax.tree.leaves(variables.get("batch_stats", {})):
        return DEFAULT_BN_WEIGHT if weight is None else weight
    if weight:
        raise ValueError(
            f"synthesis.bn = {weight} asks for BatchNorm matching, but the teacher has no BatchNorm; "
            "set it to 0 (or None)."
        )
    warnings.warn(
        "The teacher has no BatchNorm, so the BatchNorm term is off: images are guided by classes and "
        "the student's errors alone, look less like the data, and the student is usually several points worse.",
        stacklevel=2,
    )
    return 0.0


def seeds_to_views(view: augment.View, seeds: Array, numbers: Array, images: Array) -> Array:
    """View `numbers[b]` of each image, the same each time: the slot's seed decides it.

    View 0 is the image as it is.

    Args:
        seeds: uint32 [B], drawn when the slot was filled.
        numbers: int [B].
        images: [B, H, W, D] in [0, 1].
    """

    def one(seed: Array, number: Array, image: Array) -> Array:
        random_view = view(jax.random.fold_in(jax.random.key(seed), number), image)
        return jnp.where(number == 0, image, random_view)

    return jax.vmap(one)(seeds, numbers, images)


def view_answers(answer: Callable[[Array], Any], view: augment.View, seeds: Array, images: Array, views: int) -> Any:
    """What the teacher answers to `views` fixed views of each image.

    Args:
        answer: images [B * V, H, W, D] -> a pytree of arrays [B * V, ...].

    Returns:
        The pytree, of arrays [B, V, ...].
    """
    batch = images.shape[0]
    numbers = jnp.repeat(jnp.arange(views), batch)
    every_view = seeds_to_views(view, jnp.tile(seeds, views), numbers, jnp.tile(images, (views, 1, 1, 1)))
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(views, batch, *x.shape[1:]), 0, 1), answer(every_view))
