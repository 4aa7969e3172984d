"""DeepInversion (Yin et al., CVPR 2020): no generator; a batch's pixels are optimised, and kept in a growing bank.

The pixels take the place of the latents z, and the generator is the map from normalised pixels to images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import optax

from ssdkd_jax import generator, inversion, settings, terms
from ssdkd_jax.methods import Problem, bank, peer_losses
from ssdkd_jax.settings import setting
from ssdkd_jax.types import Array, Method, Network

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "deepinversion": {
        **bank.PRESET,
        "synthesis.inner_steps": 1000,
        "synthesis.bn": 10.0,
        "synthesis.oh": 1.0,
        "synthesis.adv": 1.0,
        "schedule.distill_steps": 400,
        "schedule.warmup": 0,
    }
}


@settings.section("deepinversion")
class Prior:
    """What DeepInversion adds to the three usual terms, and how it descends them (its CIFAR-10 script)."""

    lr_pixels: float = setting(0.1, "Adam's learning rate, on normalised pixels", above=0)
    tv: float = setting(1e-3, "weight of total variation", least=0)
    temperature: float = setting(3.0, "of the Jensen-Shannon divergence", least=0.01, most=1000)


@dataclass(frozen=True)
class Settings(bank.Settings):
    """What DeepInversion reads of a config."""

    prior: Prior


def make(s: Settings, problem: Problem) -> Method:
    """DeepInversion as a `Method`: each batch starts from noise of the data's mean and variance."""
    inputs, none = problem.inputs, optax.identity()
    on_pixels = adam_on_pixels(s.prior.lr_pixels, inputs.mean, inputs.std)
    recipe = s.recipe(loss_terms(s, problem), inversion.Trained(none, on_pixels, none))
    network, start = pixels(inputs.mean, inputs.std), generator.sequential(none)
    return bank.make(network, start, inputs.image_shape, recipe, s.student_views(), problem)


def loss_terms(s: Settings, problem: Problem) -> list[terms.Term]:
    """bn * BN match + oh * CE + adv (1 - JS) + tv * TV (Yin et al. 2020)."""
    bn, oh, adv = terms.usual_terms(s.weights.allowed(problem.has_batch_norm), problem.task)
    competition = partial(peer_losses.competition, temperature=s.prior.temperature)
    return [
        bn,
        oh,
        adv._replace(value=lambda o: competition(o.teacher.logits, o.student_logits)),
        terms.Term("tv", s.prior.tv, lambda o: peer_losses.total_variation(o.images, problem.axis)),
    ]


def pixels(mean: Sequence[float], std: Sequence[float]) -> Network:
    """The generator without parameters: normalised pixels z [B, H, W, D] -> images z * std + mean."""
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    return Network(
        init=lambda key: {"params": {}},
        apply=lambda variables, z: z * std + mean,
        train=lambda variables, z: (z * std + mean, variables),
    )


def adam_on_pixels(lr: float, mean: Sequence[float], std: Sequence[float]) -> optax.GradientTransformation:
    """Adam (.5, .99) on normalised pixels, each step projected to where the image is in [0, 1]."""
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)

    def into_range(updates: Array, z: Array) -> Array:
        return jnp.clip(z + updates, -mean / std, (1.0 - mean) / std) - z

    return optax.chain(optax.adam(lr, b1=0.5, b2=0.99), optax.stateless(into_range))
