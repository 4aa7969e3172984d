"""Image classification: one label per image."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from ssdkd_jax import losses, settings
from ssdkd_jax.types import Array, Key, Metrics, Task


@settings.section("task")
class Settings:
    """Nothing but the classes."""


def make(classes: int, temperature: float) -> Task:
    """The task of telling `classes` apart, distilled at `temperature`."""
    return Task(
        classes=classes,
        targets=targets,
        target_codes=partial(jax.nn.one_hot, num_classes=classes, dtype=jnp.float32),
        target_loss=losses.cross_entropy,
        distillation_loss=partial(losses.distillation, temperature=temperature),
        adversarial_loss=losses.adversarial,
        gap=losses.kl_divergence,
        class_probabilities=jax.nn.softmax,
        metrics=metrics,
        scores=scores,
        score="accuracy",
    )


def targets(key: Key, asked: Array, n: int) -> Array:
    """n class numbers, int32 [n], whose counts are n * asked rounded, in random order.

    Systematic sampling: one uniform offset, so each count is within 1 of its expectation.

    Args:
        asked: [C], probabilities that sum to 1.
    """
    key_offset, key_order = jax.random.split(key)
    levels = (jnp.arange(n, dtype=asked.dtype) + jax.random.uniform(key_offset, (), asked.dtype)) / n
    labels = jnp.searchsorted(jnp.cumsum(asked), levels, side="right", method="compare_all")
    return jax.random.permutation(key_order, jnp.minimum(labels, asked.shape[0] - 1).astype(jnp.int32))


def metrics(logits: Array, labels: Array) -> Metrics:
    """Accuracy and cross-entropy in nats, each [B]."""
    return {
        "accuracy": (logits.argmax(-1).astype(labels.dtype) == labels).astype(jnp.float32),
        "loss": losses.cross_entropy(logits, labels),
    }


def scores(sums: Metrics, images: int) -> dict[str, float]:
    """The means over the set."""
    return {name: float(total / images) for name, total in sums.items()}
