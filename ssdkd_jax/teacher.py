"""The frozen teacher: its logits, the BatchNorm statistics it sees, and its answers to fixed views."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from ssdkd_jax import augment, settings
from ssdkd_jax.errors import InputError
from ssdkd_jax.losses import Moments, batch_moments
from ssdkd_jax.models import observe as observed
from ssdkd_jax.settings import setting
from ssdkd_jax.types import Array, Network, Variables

DEFAULT_BN_WEIGHT = 3.0


@settings.section("teacher")
class Settings:
    """The teacher, and how it is trained where there is none."""

    model: str = setting("wrn16_1", "one of models.NAMES, or 'package.module:Class' called with classes=C")
    checkpoint: str = setting("", "folder of a saved teacher; '' trains one under the workdir first")
    epochs: int = setting(20, "passes over the real images", least=1)
    batch: int = setting(128, "global batch", least=1)
    lr: float = setting(0.1, "highest learning rate", above=0)
    weight_decay: float = setting(5e-4, "added to the gradient", least=0)
    warmup: float = setting(0.1, "fraction of the steps in which the learning rate rises", least=0, below=1)
    flip: bool = setting(False, "mirror the real images at random")
    shift: int = setting(0, "move them by at most this many pixels", least=0)


@settings.section("views")
class Cache:
    """The teacher's answers that the buffer keeps."""

    count: int = setting(8, "V, cached teacher views per slot; 0 runs the teacher in every step", least=0)


class Observation(NamedTuple):
    """What a forward pass of the teacher shows.

    Attributes:
        logits: [B, C], dense tasks [B, H, W, C].
        moments: at the input of every BatchNorm, in the order of execution.
        norm_inputs: these inputs, [B, ..., features] each.
        dense_inputs: the inputs of its Dense layers.
    """

    logits: Array
    moments: list[Moments]
    norm_inputs: list[Array]
    dense_inputs: list[Array]


def observe(network: Network, variables: Variables, images: Array, axis: str | None = None) -> Observation:
    """One forward pass in eval mode; the layers are watched, so that any linen module serves unchanged.

    Under `jax.jit`, what nobody uses of the result costs nothing.

    Args:
        images: [B, H, W, D] in [0, 1].
        axis: pmap axis over which the batch's moments are taken, or None.
    """
    chex.assert_rank(images, 4)

    def read(layer: observed.Layer, inputs: Array, running: Sequence[Array]) -> tuple[Moments | None, Array]:
        return (Moments(*batch_moments(inputs, axis), *running) if layer.norm else None), inputs

    logits, layers = observed.layers(partial(network.apply, variables, images), read)
    norms = [seen for layer, seen in layers if layer.norm]
    dense = [inputs for layer, (_, inputs) in layers if not layer.norm]
    return Observation(logits, [found for found, _ in norms], [inputs for _, inputs in norms], dense)


def has_batch_norm(variables: Variables) -> bool:
    """Whether a network with these variables has any BatchNorm: a layer with a running mean and variance."""
    return bool(observed.norm_paths(variables))


def batch_norm_weight(present: bool, weight: float | None) -> float:
    """The weight of the BatchNorm term that this teacher allows.

    Args:
        present: whether the teacher has any BatchNorm.
        weight: as configured; None asks for the term only where the teacher has BatchNorm.

    Raises:
        ValueError: when the term is asked for and the teacher has no BatchNorm.
    """
    if present:
        return DEFAULT_BN_WEIGHT if weight is None else weight
    if weight:
        raise InputError(
            f"synthesis.bn = {weight} asks for BatchNorm matching, but the teacher has no BatchNorm; "
            "set it to 0 (or None)."
        )
    warnings.warn(
        "The teacher has no BatchNorm, so the BatchNorm term is off: images are guided by classes and the student's "
        "errors alone and look less like the data; students tried so agreed with their teachers 45 to 70 points less. "
        "method.name = procedural inverts nothing.",
        stacklevel=2,
    )
    return 0.0


def seeds_to_views(view: augment.View, seeds: Array, view_indices: Array, images: Array) -> Array:
    """View `view_indices[b]` of each image, the same each time: the slot's seed decides it.

    View 0 is the image as it is.

    Args:
        seeds: uint32 [B], drawn when the slot was filled.
        view_indices: int [B].
        images: [B, H, W, D] in [0, 1].
    """

    def one(seed: Array, view_index: Array, image: Array) -> Array:
        random_view = view(jax.random.fold_in(jax.random.key(seed), view_index), image)
        return jnp.where(view_index == 0, image, random_view)

    chex.assert_equal_shape_prefix((seeds, view_indices, images), 1)
    return jax.vmap(one)(seeds, view_indices, images)


def view_answers(answer: Callable[[Array], Any], view: augment.View, seeds: Array, images: Array, views: int) -> Any:
    """What the teacher answers to `views` fixed views of each image.

    Args:
        answer: images [B * V, H, W, D] -> a pytree of arrays [B * V, ...].

    Returns:
        The pytree, of arrays [B, V, ...].
    """
    batch = images.shape[0]
    view_indices = jnp.repeat(jnp.arange(views), batch)
    every_view = seeds_to_views(view, jnp.tile(seeds, views), view_indices, jnp.tile(images, (views, 1, 1, 1)))
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(views, batch, *x.shape[1:]), 0, 1), answer(every_view))
