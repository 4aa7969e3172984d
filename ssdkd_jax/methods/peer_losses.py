"""Loss terms of the methods that SSD-KD is measured against; per sample [B] and unreduced, except where said."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import optax

from ssdkd_jax import losses
from ssdkd_jax.engine import parallel
from ssdkd_jax.types import Array


def jensen_shannon(teacher_logits: Array, student_logits: Array, temperature: float) -> Array:
    """JS divergence of the two softmaxes at temperature T, in nats: at most log 2."""
    chex.assert_equal_shape((teacher_logits, student_logits))
    log_t = jax.nn.log_softmax(teacher_logits / temperature)
    log_s = jax.nn.log_softmax(student_logits / temperature)
    log_m = jnp.logaddexp(log_t, log_s) - jnp.log(2.0)
    kl = optax.losses.kl_divergence_with_log_targets
    return 0.5 * kl(log_m, log_t) + 0.5 * kl(log_m, log_s)


def competition(teacher_logits: Array, student_logits: Array, temperature: float) -> Array:
    """1 - JS: low where teacher and student disagree (DeepInversion, Yin et al., CVPR 2020)."""
    return 1.0 - jensen_shannon(teacher_logits, student_logits, temperature)


def l1(teacher_logits: Array, student_logits: Array) -> Array:
    """|f_t - f_s| on the logits, mean over the classes and, for dense tasks, the pixels (DFAD, Fang et al. 2019)."""
    chex.assert_equal_shape((teacher_logits, student_logits))
    return jnp.abs(teacher_logits - student_logits).mean(tuple(range(1, teacher_logits.ndim)))


def class_balance(probabilities: Array, axis: str | None) -> Array:
    """sum_c p_c log p_c of the batch's mean probabilities, []: -log C where all classes are alike.

    Source: DAFL (Chen et al., ICCV 2019), with the natural logarithm; one number per batch, over all devices.
    """
    mean = parallel.mean(probabilities.mean(0), axis)
    return jnp.sum(jax.scipy.special.xlogy(mean, mean))


def activation(features: Array) -> Array:
    """-mean_f |features|, for [B, F], the input of the classifier (DAFL)."""
    return -jnp.abs(features).mean(-1)


def total_variation(images: Array, axis: str | None) -> Array:
    """Sum of the L2 norms of the differences of neighbours, along the axes and both diagonals; one number, [].

    Source: DeepInversion's image prior; each norm is taken over the whole batch, of all devices.
    """
    across = images[:, :, 1:] - images[:, :, :-1]
    down = images[:, 1:] - images[:, :-1]
    diagonal = images[:, 1:, 1:] - images[:, :-1, :-1]
    antidiagonal = images[:, 1:, :-1] - images[:, :-1, 1:]
    squares = jnp.stack([jnp.square(difference).sum() for difference in (across, down, diagonal, antidiagonal)])
    return jnp.sqrt(parallel.total(squares, axis) + 1e-12).sum()


def contrastive(queries: Array, keys: Array, positives: Array, present: Array, temperature: float) -> Array:
    """-log softmax(q k^T / temperature)[positive]: tells an image from all others (CMI, Fang et al., IJCAI 2021).

    Args:
        queries: [B, F], of L2 norm 1.
        keys: [K, F], of L2 norm 1.
        positives: int [B], which key belongs to which query.
        present: bool [K], False where a key is to be passed over.
    """
    chex.assert_shape(queries, (*positives.shape, keys.shape[-1]))
    chex.assert_shape(present, keys.shape[:1])
    logits = jnp.where(present, queries @ keys.T / temperature, -jnp.inf)
    return losses.cross_entropy(logits, positives)
