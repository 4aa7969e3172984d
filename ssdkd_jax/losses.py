"""Loss terms: pure, per sample [B] and unreduced, except where a name says otherwise.

Teacher first, student second, as in KL(f_t || f_s). Logits may be [B, C], or [B, H, W, C]
for dense tasks; the result then keeps the pixels, [B, H, W].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from ssdkd_jax.engine import parallel
from ssdkd_jax.types import Array


def kl_divergence(teacher_logits: Array, student_logits: Array, temperature: float = 1.0) -> Array:
    """KL(softmax(f_t / T) || softmax(f_s / T)) in nats, unscaled (Hinton et al. 2015 without T^2).

    Raises:
        AssertionError: where the two have different shapes, as one teacher row for a whole batch.
    """
    chex.assert_equal_shape((teacher_logits, student_logits))
    log_t = jax.nn.log_softmax(teacher_logits / temperature)
    log_s = jax.nn.log_softmax(student_logits / temperature)
    return optax.losses.kl_divergence_with_log_targets(log_s, log_t)


def distillation(teacher_logits: Array, student_logits: Array, temperature: float) -> Array:
    """T^2 KL_T(f_t || f_s): gradients of one size at every temperature (Hinton et al. 2015, section 2)."""
    return temperature**2 * kl_divergence(teacher_logits, student_logits, temperature)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """-log softmax(logits)[label]; labels are int, without the class axis."""
    chex.assert_shape(labels, logits.shape[:-1])
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)


def adversarial(teacher_logits: Array, student_logits: Array) -> Array:
    """-1[argmax f_t = argmax f_s] KL(f_t || f_s): sends the generator where the student errs.

    Only samples that the two still agree on push (the rule of DeepInversion's and Fast-DFKD's
    competition term; the KL form is ours).
    """
    chex.assert_equal_shape((teacher_logits, student_logits))
    agree = teacher_logits.argmax(-1) == student_logits.argmax(-1)
    return jnp.where(agree, -kl_divergence(teacher_logits, student_logits), 0.0)


def widened(x: Array) -> Array:
    """As float32 where it was narrower: what a layer answered in bfloat16 is reduced in float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Moments(NamedTuple):
    """Mean and biased variance of a BatchNorm's input, beside its running ones; all [features]."""

    mean: Array
    var: Array
    running_mean: Array
    running_var: Array


def batch_moments(x: Array, axis: str | None = None) -> tuple[Array, Array]:
    """Mean and biased variance over all axes but the last, and over the devices.

    Args:
        x: [..., features].
        axis: pmap axis name, or None.
    """
    over, x = tuple(range(x.ndim - 1)), widened(x)
    mean = parallel.mean(x.mean(over), axis)
    return mean, parallel.mean(jnp.square(x - mean).mean(over), axis)


def batch_norm_match(moments: Sequence[Moments]) -> Array:
    """Sum over BatchNorms of |mean - running mean|_2 + |var - running var|_2; one number per batch, []; 0 without any.

    Source: DeepInversion (Yin et al., CVPR 2020), eq. 4, norms unsquared. The gradient at an exact
    match is 0.
    """
    distances = [
        optax.safe_norm(m.mean - m.running_mean, 1e-12) + optax.safe_norm(m.var - m.running_var, 1e-12) for m in moments
    ]
    return jnp.sum(jnp.stack(distances)) if distances else jnp.zeros(())
