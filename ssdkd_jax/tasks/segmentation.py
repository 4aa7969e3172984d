"""Semantic segmentation: a label per pixel; every loss is the mean over an image's pixels.

What a single class means for an image of several, in the asked targets and in the diversity term, is ours:

    asked class      the image is to show it on at least a share q of its pixels, wherever that is easiest
    predicted class  the rarest class, by the teacher's answer, of those that cover at least q of the image

The rarest, not the most frequent: a class that fills most images (the ground, a wall) is in all of them
anyway, and would be the class of every slot. The confidence of an image is the teacher's mean probability
of that class on the pixels that it gives to it.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from ssdkd_jax import losses, settings
from ssdkd_jax.settings import setting
from ssdkd_jax.tasks import classification
from ssdkd_jax.types import Array, Key, Metrics, Task


@settings.section("task")
class Settings:
    """What an image of several classes is taken for."""

    presence: float = setting(
        0.02, "q, the share of its pixels on which an image shows a class at least", above=0, most=1
    )


def make(classes: int, temperature: float, presence: float) -> Task:
    """The task of labelling pixels with `classes`, distilled at `temperature`.

    Args:
        presence: q, in (0, 1]: the share of its pixels on which an image shows a class at least.
    """
    return Task(
        classes=classes,
        targets=targets,
        target_codes=partial(jax.nn.one_hot, num_classes=classes, dtype=jnp.float32),
        target_loss=partial(target_loss, presence=presence),
        distillation_loss=lambda t, s: _mean(losses.distillation(t, s, temperature)),
        adversarial_loss=lambda t, s: _mean(losses.adversarial(t, s)),
        gap=lambda t, s: _mean(losses.kl_divergence(t, s)),
        class_probabilities=partial(class_probabilities, presence=presence),
        metrics=metrics,
        scores=scores,
        score="miou",
    )


def _mean(pixels: Array) -> Array:
    return pixels.mean(axis=(1, 2))


def _least(presence: float, pixels: int) -> int:
    return max(1, round(presence * pixels))


def targets(key: Key, asked: Array, n: int) -> Array:
    """As `classification.targets`, but no class has more than about twice its even share.

    A class that fills every image is the predicted class of none, so that it always lacks slots and
    would take half of the requests.

    Args:
        asked: [C], probabilities that sum to 1.
    """
    capped = jnp.minimum(asked, 2.0 / asked.shape[0])
    return classification.targets(key, capped / capped.sum(), n)


def target_loss(logits: Array, asked: Array, *, presence: float) -> Array:
    """-mean log p(asked) over the share `presence` of the pixels that are likeliest to be of that class: [B].

    Args:
        logits: [B, H, W, C].
        asked: int [B].
    """
    log_p = jax.nn.log_softmax(logits).reshape(logits.shape[0], -1, logits.shape[-1])
    of_asked = jnp.einsum("bpc,bc->bp", log_p, jax.nn.one_hot(asked, logits.shape[-1], dtype=logits.dtype))
    likeliest, _ = jax.lax.top_k(of_asked, _least(presence, of_asked.shape[1]))
    return -likeliest.mean(-1)


def class_probabilities(logits: Array, *, presence: float) -> Array:
    """[B, C]: the predicted class of each image has its confidence, the others share the rest evenly."""
    classes = logits.shape[-1]
    p = jax.nn.softmax(logits).reshape(logits.shape[0], -1, classes)
    given = jax.nn.one_hot(p.argmax(-1), classes, dtype=logits.dtype)
    covered = given.sum(1)
    least = jnp.minimum(_least(presence, p.shape[1]), covered.max(-1, keepdims=True))
    label = jnp.where(covered >= least, covered, jnp.inf).argmin(-1)
    confidence = jnp.take_along_axis((p * given).sum(1) / jnp.maximum(covered, 1), label[:, None], 1)
    return jnp.where(jnp.arange(classes) == label[:, None], confidence, (1 - confidence) / (classes - 1))


def metrics(logits: Array, labels: Array) -> Metrics:
    """Confusion matrix of each image and its mean cross-entropy in nats, over the pixels that are labelled.

    Args:
        logits: [B, H, W, C].
        labels: int [B, H, W]; those that are no class, such as `augment.UNLABELLED`, do not count.

    Returns:
        'confusion' [B, C, C], pixels by label and prediction; 'loss' [B].
    """
    images, classes = logits.shape[0], logits.shape[-1]
    truth = jax.nn.one_hot(labels.reshape(images, -1), classes, dtype=logits.dtype)
    answer = jax.nn.one_hot(logits.argmax(-1).reshape(images, -1), classes, dtype=logits.dtype)
    log_p = jax.nn.log_softmax(logits).reshape(truth.shape)
    return {
        "confusion": jnp.einsum("bpt,bpa->bta", truth, answer),
        "loss": -(truth * log_p).sum((1, 2)) / jnp.maximum(truth.sum((1, 2)), 1),
    }


def scores(sums: Metrics, images: int) -> dict[str, float]:
    """mIoU, pixel accuracy and IoU of each class from the confusion matrix of a whole set.

    A class that is neither in the labels nor in the answers has no IoU; mIoU is the mean of those that have.
    """
    confusion = sums["confusion"]
    hit = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - hit
    iou = {f"iou_{c}": float(hit[c] / union[c]) for c in range(len(hit)) if union[c]}
    return {
        "miou": sum(iou.values()) / max(len(iou), 1),
        "accuracy": float(hit.sum() / max(confusion.sum(), 1)),
        "loss": float(sums["loss"] / images),
        **iou,
    }
