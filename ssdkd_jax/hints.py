"""Hints: what the student is taught of the teacher's inner maps, beside its logits.

Attention transfer (Zagoruyko & Komodakis, ICLR 2017; in data-free distillation ZSKT, Micaelli &
Storkey, NeurIPS 2019) compares where the two networks are active. A map is taken at the input of
the last BatchNorm of each resolution (ours), so that any linen module serves unchanged; in a
wide residual network these are the outputs of its groups.

Regression asks more: that the teacher's maps be linear in the student's, as FitNets do (Romero et
al., ICLR 2015), at the input of every BatchNorm. Ours is that the linear map is not learnt: each batch
has its own, of least squares, so that a hint has no parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve

from ssdkd_jax import losses, settings
from ssdkd_jax.engine import parallel
from ssdkd_jax.errors import InputError
from ssdkd_jax.models import observe
from ssdkd_jax.settings import setting
from ssdkd_jax.types import Array, Network, Variables

Resolution = tuple[int, int]
RIDGE, EPSILON = 1e-3, 1e-5


@settings.section("student")
class Settings:
    """Which hints the student is given; both 0: logits alone."""

    attention: float = setting(0.0, "weight of attention transfer from the teacher's inner maps", least=0)
    regression: float = setting(0.0, "weight of the regression of its inner maps on the student's", least=0)

    def faults(self) -> Iterator[str]:
        """Where two kinds of hints are asked for."""
        if self.attention and self.regression:
            yield (
                f"student.attention = {self.attention} and student.regression = {self.regression} are two kinds of "
                "hints; set one of them to 0."
            )

    def make(self, teacher: Network, student: Network, image_shape: tuple[int, int, int], axis: str | None) -> Hint:
        """What the student is shown of the teacher beside its logits.

        Raises:
            InputError: where the two networks share no resolution.
        """
        if not self.attention and not self.regression:
            return none()
        shared = shared_resolutions(teacher, student, image_shape)
        if self.attention:
            return attention(self.attention, tuple(shared))
        return regression(self.regression, shared, axis)


class Hint(NamedTuple):
    """A kind of hint.

    Attributes:
        observe: (function, variables, images [B, H, W, D]) -> (function(variables, images), hints),
            where hints is a pytree of arrays [B, ...], or None.
        loss: (teacher's hints, student's hints, importance weights [B]) -> scalar.
    """

    observe: Callable[[Callable, Variables, Array], tuple[Any, Any]]
    loss: Callable[[Any, Any, Array], Any]


def none() -> Hint:
    """Logits alone."""
    return Hint(observe=lambda function, variables, x: (function(variables, x), None), loss=lambda f_t, f_s, w: 0.0)


def attention(weight: float, resolutions: tuple[Resolution, ...]) -> Hint:
    """Attention transfer at these resolutions.

    Args:
        weight: beta; 250 in ZSKT.
        resolutions: (height, width) of maps that both networks have, as of `shared_resolutions`.
    """
    return Hint(
        observe=partial(observe_attention, resolutions=resolutions),
        loss=lambda f_t, f_s, w: weight * (w * attention_loss(f_t, f_s, resolutions)).mean(),
    )


def observe_attention(
    function: Callable, variables: Variables, images: Array, *, resolutions: tuple[Resolution, ...]
) -> tuple[Any, Array]:
    """(function(variables, images), attention maps [B, P]), P the pixels of all resolutions together."""
    result, found = maps(function, variables, images)
    return result, jnp.concatenate([attention_map(found[resolution][-1]) for resolution in resolutions], axis=-1)


def attention_map(features: Array) -> Array:
    """q / |q|_2 with q = the mean over channels of squares, [B, h, w, d] -> [B, h * w]; eq. 1 of the paper."""
    q = jnp.square(losses.widened(features)).mean(-1).reshape(features.shape[0], -1)
    return q / jnp.sqrt(jnp.square(q).sum(-1, keepdims=True) + 1e-12)


def attention_loss(f_t: Array, f_s: Array, resolutions: tuple[Resolution, ...]) -> Array:
    """sum_j of the mean squared difference of the j-th maps, [B]; as in ZSKT's code.

    Args:
        f_t, f_s: [B, P] maps of teacher and student.
    """
    ends = np.cumsum([height * width for height, width in resolutions])
    squares = jnp.square(f_t.astype(jnp.float32) - f_s)
    return sum(part.mean(-1) for part in jnp.split(squares, ends[:-1], axis=-1))


def regression(weight: float, counts: Mapping[Resolution, int], axis: str | None) -> Hint:
    """Least-squares regression of the teacher's maps on the student's.

    Args:
        weight: of the sum, over the maps, of the share of variance that stays unexplained.
        counts: how many maps of each resolution, as of `shared_resolutions`.
        axis: pmap axis over which the batch is split.
    """
    return Hint(
        observe=partial(observe_maps, counts=counts),
        loss=lambda f_t, f_s, w: weight * sum(unexplained(f_t, f_s, w, axis)),
    )


def observe_maps(
    function: Callable, variables: Variables, images: Array, *, counts: Mapping[Resolution, int]
) -> tuple[Any, tuple[Array, ...]]:
    """(function(variables, images), maps [B, h, w, d]): of each resolution `counts`, evenly spaced to the last."""
    result, found = maps(function, variables, images)
    return result, tuple(
        found[resolution][len(found[resolution]) * rank // count - 1]
        for resolution, count in counts.items()
        for rank in range(1, count + 1)
    )


def unexplained(f_t: Sequence[Array], f_s: Sequence[Array], weights: Array, axis: str | None) -> list[Array]:
    """Of each pair of maps, min_P sum_b w_b |t_b - s_b P|^2 / sum_b w_b |t_b|^2, centred, by channel of the teacher.

    That is 1 - R^2; P is at the minimum, so that no gradient goes through it.

    Args:
        f_t: [B, h, w, d_t], the teacher's maps.
        f_s: [B, h, w, d_s], the student's.
        weights: w, [B], of the images.
        axis: pmap axis over which the batch is split; P and the means are those of the whole batch.

    Returns:
        The means over the teacher's channels, scalars.
    """
    w = weights / parallel.mean(weights.mean(), axis)
    pairs = [centred_pixels(*maps, w, axis) for maps in zip(f_t, f_s, strict=True)]
    moments = [((w * s).T @ s, (w * s).T @ t) for t, s, w in pairs]
    solutions = least_squares(jax.lax.stop_gradient(parallel.mean(moments, axis)))
    left = []
    for (t, s, w), p in zip(pairs, solutions, strict=True):
        rest, power = (parallel.mean((w * jnp.square(x)).sum(0), axis) for x in (t - s @ p, t))
        left.append((rest / (power + EPSILON)).mean())
    return left


def centred_pixels(f_t: Array, f_s: Array, weights: Array, axis: str | None) -> tuple[Array, Array, Array]:
    """Teacher's and student's pixels [M, d], centred, and the weight [M, 1] of each, of those of images [B]."""
    w = jnp.broadcast_to(weights[:, None, None], f_t.shape[:3]).reshape(-1, 1) / f_t[..., 0].size
    t, s = (centred(f.reshape(-1, f.shape[-1]).astype(jnp.float32), w, axis) for f in (f_t, f_s))
    return t, s, w


def centred(f: Array, w: Array, axis: str | None) -> Array:
    """Pixels [M, d] whose channels have the mean 0 over the whole batch, of weights [M, 1] that sum to 1."""
    return f - parallel.mean((w * f).sum(0), axis)


def least_squares(problems: Sequence[tuple[Array, Array]]) -> list[Array]:
    """The P [d, e] that solves gram P = cross of each (gram, cross); those of one shape are solved together.

    There is a slight ridge in units of each variable's variance, so that every gram is positive.
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for number, (_, cross) in enumerate(problems):
        by_shape.setdefault(cross.shape, []).append(number)
    found: dict[int, Array] = {}
    for numbers in by_shape.values():
        gram, cross = (jnp.stack(parts) for parts in zip(*(problems[number] for number in numbers), strict=True))
        found |= zip(numbers, jax.vmap(ridge)(gram, cross), strict=True)
    return [found[number] for number in range(len(problems))]


def ridge(gram: Array, cross: Array) -> Array:
    """As `least_squares`, of one problem, by Cholesky."""
    scale = 1 / jnp.sqrt(jnp.diag(gram) + EPSILON)[:, None]
    positive = scale * gram * scale.T + RIDGE * jnp.eye(len(gram), dtype=gram.dtype)
    return scale * cho_solve((jnp.linalg.cholesky(positive), True), scale * cross)


def shared_resolutions(teacher: Network, student: Network, image_shape: tuple[int, int, int]) -> dict[Resolution, int]:
    """The resolutions at which both networks have a BatchNorm, finest first, and the fewer of the two's numbers.

    Raises:
        ValueError: where there is none.
    """

    def counts(network: Network) -> dict[Resolution, int]:
        variables = jax.eval_shape(network.init, jax.random.key(0))
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        _, found = jax.eval_shape(partial(maps, network.apply), variables, images)
        return {resolution: len(inputs) for resolution, inputs in found.items()}

    of_teacher, of_student = counts(teacher), counts(student)
    both = sorted(of_teacher.keys() & of_student.keys(), reverse=True)
    if not both:
        raise InputError(
            "student.attention or student.regression asks for hints, but teacher and student have no BatchNorm at a "
            "common resolution; set it to 0."
        )
    return {resolution: min(of_teacher[resolution], of_student[resolution]) for resolution in both}


def maps(function: Callable, variables: Variables, images: Array) -> tuple[Any, dict[Resolution, list[Array]]]:
    """function(variables, images), and the inputs of its BatchNorms at each resolution above 1x1, in order."""
    result, inputs = observe.norm_inputs(partial(function, variables, images))
    found: dict[Resolution, list[Array]] = {}
    for x in inputs:
        if x.ndim == 4 and x.shape[1] * x.shape[2] > 1:
            found.setdefault(x.shape[1:3], []).append(x)
    return result, found
