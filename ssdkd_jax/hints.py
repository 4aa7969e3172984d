"""Hints: what the student is taught of the teacher's inner maps, beside its logits.

Attention transfer (Zagoruyko & Komodakis, ICLR 2017; in data-free distillation ZSKT, Micaelli &
Storkey, NeurIPS 2019) compares where the two networks are active. A map is taken at the input of
the last BatchNorm of each resolution (ours), so that any linen module serves unchanged; in a
wide residual network these are the outputs of its groups.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssdkd_jax.models import layers
from ssdkd_jax.types import Array, Network, Variables

Resolution = tuple[int, int]


class Hint(NamedTuple):
    """A kind of hint.

    Attributes:
        observe: (function, variables, images [B, H, W, D]) -> (function(variables, images), hints),
            where hints is an array [B, P] or None.
        loss: (teacher's hints, student's hints) -> [B].
    """

    observe: Callable[[Callable, Variables, Array], tuple[Any, Array | None]]
    loss: Callable[[Any, Any], Any]


def none() -> Hint:
    """Logits alone."""
    return Hint(observe=lambda function, variables, x: (function(variables, x), None), loss=lambda f_t, f_s: 0.0)


def attention(weight: float, resolutions: tuple[Resolution, ...]) -> Hint:
    """Attention transfer at these resolutions.

    Args:
        weight: beta; 250 in ZSKT.
        resolutions: (height, width) of maps that both networks have, as of `shared_resolutions`.
    """
    return Hint(
        observe=partial(observe_attention, resolutions=resolutions),
        loss=partial(attention_loss, weight=weight, resolutions=resolutions),
    )


def observe_attention(
    function: Callable, variables: Variables, images: Array, *, resolutions: tuple[Resolution, ...]
) -> tuple[Any, Array]:
    """(function(variables, images), attention maps [B, P]), P the pixels of all resolutions together."""
    result, maps = last_maps(function, variables, images)
    return result, jnp.concatenate([attention_map(maps[resolution]) for resolution in resolutions], axis=-1)


def attention_map(features: Array) -> Array:
    """q / |q|_2 with q = the mean over channels of squares, [B, h, w, d] -> [B, h * w]; eq. 1 of the paper."""
    q = jnp.square(features).mean(-1).reshape(features.shape[0], -1)
    return q / jnp.sqrt(jnp.square(q).sum(-1, keepdims=True) + 1e-12)


def attention_loss(f_t: Array, f_s: Array, *, weight: float, resolutions: tuple[Resolution, ...]) -> Array:
    """beta * sum_j of the mean squared difference of the j-th maps, [B]; as in ZSKT's code.

    Args:
        f_t, f_s: [B, P] maps of teacher and student.
    """
    ends = np.cumsum([height * width for height, width in resolutions])
    squares = jnp.square(f_t.astype(jnp.float32) - f_s)
    return weight * sum(part.mean(-1) for part in jnp.split(squares, ends[:-1], axis=-1))


def shared_resolutions(teacher: Network, student: Network, image_shape: tuple[int, int, int]) -> tuple[Resolution, ...]:
    """The resolutions at which both networks have a BatchNorm, finest first.

    Raises:
        ValueError: where there is none.
    """

    def resolutions(network: Network) -> set[Resolution]:
        variables = jax.eval_shape(network.init, jax.random.key(0))
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        seen: set[Resolution] = set()
        jax.eval_shape(lambda v, x: seen.update(last_maps(network.apply, v, x)[1]), variables, images)
        return seen

    both = resolutions(teacher) & resolutions(student)
    if not both:
        raise ValueError(
            "student.attention asks for attention transfer, but teacher and student have no BatchNorm at a common "
            "resolution; set it to 0."
        )
    return tuple(sorted(both, reverse=True))


def last_maps(function: Callable, variables: Variables, images: Array) -> tuple[Any, dict[Resolution, Array]]:
    """function(variables, images), and the input of its last BatchNorm at each resolution above 1x1."""
    maps: dict[Resolution, Array] = {}

    def see(_: Any, x: Array) -> None:
        if x.ndim == 4 and x.shape[1] * x.shape[2] > 1:
            maps[x.shape[1:3]] = x

    with layers.watch_batch_norms(see):
        return function(variables, images), maps
