"""From a configuration to the methods that SSD-KD is measured against, and to its yardsticks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import optax
from ml_collections import ConfigDict

from ssdkd_jax import augment, generator, hints, inversion, losses
from ssdkd_jax.methods import bank, cmi, deepinversion, fast_dfkd, generative, given, peer_losses, ssdkd
from ssdkd_jax.types import Array, Inputs, Method, Task

LOCAL_AREA = 0.25
DIVERGENCES = {"kl": losses.kl_divergence, "l1": peer_losses.l1}


class Parts(NamedTuple):
    """What a method is made of.

    Attributes:
        config: the whole configuration.
        inputs: image shape, classes, normalisation.
        bn: weight of the BatchNorm term that the teacher allows.
        start: how the generator persists over rounds.
        hint: what the student is shown of the teacher beside its logits.
        networks: generator, teacher, student.
        task: what is learnt.
        images: uint8 [M, H, W, D], for 'given'; None for all others.
        axis: pmap axis name, or None.
    """

    config: ConfigDict
    inputs: Inputs
    bn: float
    start: generator.Start
    hint: hints.Hint
    networks: inversion.Models
    task: Task
    images: np.ndarray | None
    axis: str | None


def bank_settings(
    parts: Parts, slots: int, tx: optax.GradientTransformation, tx_z: optax.GradientTransformation
) -> ssdkd.Settings:
    """The settings of the methods with a growing bank."""
    c, views = parts.config.synthesis, parts.config.views
    return bank.settings(
        image_shape=tuple(parts.inputs.image_shape),
        slots=slots,
        synthesis_batch=c.batch,
        student_batch=parts.config.student.batch,
        inner_steps=c.inner_steps,
        latent_size=c.latent,
        weights=inversion.Weights(bn=parts.bn, oh=c.oh, adv=c.adv),
        bn_past=c.bn_past,
        tx=tx,
        tx_z=tx_z,
        start=parts.start,
        hint=parts.hint,
        jitter=augment.make(c.flip, c.shift),
        view=augment.make(views.flip, views.shift),
        views=views.count,
    )


def made(config: ConfigDict) -> int:
    """Images that all rounds make: the slots of a bank that forgets none."""
    return config.schedule.rounds * config.synthesis.batch


def a_fast_dfkd(parts: Parts) -> Method:
    """Fast-DFKD; the adversarial term sets in with the student's first steps."""
    c = parts.config.synthesis
    tx, tx_z = optax.adam(c.lr_generator, b1=0.5), optax.adam(c.lr_latent, b1=0.5)
    s = bank_settings(parts, made(parts.config), tx, tx_z)
    return fast_dfkd.make(s, parts.config.schedule.warmup, parts.networks, parts.task, parts.axis)


def a_deepinversion(parts: Parts) -> Method:
    """DeepInversion."""
    c, moments = parts.config.method, (parts.inputs.mean, parts.inputs.std)
    tx_z = deepinversion.adam_on_pixels(c.lr_pixels, *moments)
    s = bank_settings(parts, made(parts.config), optax.identity(), tx_z)
    networks = parts.networks._replace(generator=deepinversion.pixels(*moments))
    prior = deepinversion.Prior(tv=c.tv, temperature=c.js_temperature)
    return deepinversion.make(s, prior, networks, parts.task, parts.axis)


def a_cmi(parts: Parts) -> Method:
    """CMI."""
    c, m = parts.config.synthesis, parts.config.method
    tx = cmi.adam_on_both(c.lr_generator)
    s = bank_settings(parts, made(parts.config), tx, optax.adam(c.lr_latent, b1=0.5))
    s = s._replace(start=generator.sequential(tx))
    memory = max(min(m.memory, made(parts.config)), c.batch)
    contrast = cmi.Contrast(
        weight=m.contrast,
        temperature=m.contrast_temperature,
        negatives=min(m.negatives, memory),
        memory=memory,
        head=m.head,
        local=augment.resized_crop(LOCAL_AREA),
    )
    return cmi.make(s, contrast, parts.networks, parts.task, parts.axis)


def a_generative(parts: Parts) -> Method:
    """DAFL, ZSKT, DFAD or DFQ, by the weights of the terms."""
    c, m, views = parts.config.synthesis, parts.config.method, parts.config.views
    weights = generative.Weights(bn=parts.bn, oh=c.oh, adv=c.adv, balance=m.balance, activation=m.activation)
    if not any(weights):
        raise ValueError(
            "Every term of the generator's loss is off; give synthesis.bn, .oh, .adv or method.balance a weight."
        )
    s = generative.Settings(
        image_shape=tuple(parts.inputs.image_shape),
        synthesis_batch=c.batch,
        student_batch=parts.config.student.batch,
        inner_steps=c.inner_steps,
        latent_size=c.latent,
        weights=weights,
        divergence=divergence(parts.config),
        hint=parts.hint,
        tx=optax.adam(c.lr_generator, b1=0.5),
        jitter=augment.make(c.flip, c.shift),
        view=augment.make(views.flip, views.shift),
    )
    return generative.make(s, parts.networks, parts.task, parts.axis)


def a_given(parts: Parts) -> Method:
    """Distillation on the images handed in.

    Raises:
        ValueError: where none are.
    """
    if parts.images is None:
        raise ValueError("method.name = 'given' distils on given images, but none were handed to build.job.")
    s = bank_settings(parts, len(parts.images), optax.identity(), optax.identity())._replace(views=0)
    return given.make(s, parts.images, parts.networks, parts.task, parts.axis)


METHODS: dict[str, Callable[[Parts], Method]] = {
    "fast_dfkd": a_fast_dfkd,
    "generative": a_generative,
    "deepinversion": a_deepinversion,
    "cmi": a_cmi,
    "given": a_given,
}


def divergence(config: ConfigDict) -> Callable[[Array, Array], Array]:
    """The teacher-student distance that the config names.

    Raises:
        ValueError: for an unknown name.
    """
    name = config.method.divergence
    if name not in DIVERGENCES:
        raise ValueError(f"method.divergence = '{name}' is not one of {', '.join(DIVERGENCES)}.")
    return DIVERGENCES[name]


def taught(config: ConfigDict, task: Task) -> Task:
    """The task as the student is taught it: DFAD's student minimises the L1 distance, all others the KL."""
    chosen = divergence(config)
    return task._replace(distillation_loss=peer_losses.l1) if chosen is peer_losses.l1 else task
