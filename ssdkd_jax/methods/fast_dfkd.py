"""Fast-DFKD (Fang et al., AAAI 2022): a meta-learnt generator that needs a few steps per batch, and a growing bank.

Of SSD-KD's pipeline it differs in three things: the bank (see bank.py), the average of the matched BatchNorm statistics
over rounds, which is exponential, and the adversarial term, which sets in after the warm-up. The meta start,
first-order or Reptile, is that of generator.py. Classes are asked for evenly, where the original draws them
independently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import optax

from ssdkd_jax import generator, inversion, smoothing, terms
from ssdkd_jax.errors import gathered
from ssdkd_jax.methods import Problem, bank
from ssdkd_jax.types import Method

if TYPE_CHECKING:
    from ml_collections import ConfigDict

BY_FAMILY = {"resnet": (1.33, 0.5), "vgg": (1.0, 0.5), "wrn": (1.1, 0.4)}  # its scripts: adv, oh by the teacher


def _preset(inner_steps: int, lr_latent: float, lr_generator: float) -> dict[str, Any]:
    return {
        **bank.PRESET,
        "synthesis.inner_steps": inner_steps,
        "synthesis.latent": 256,
        "synthesis.width": 64,
        "synthesis.lr_latent": lr_latent,
        "synthesis.lr_generator": lr_generator,
        "synthesis.lr_meta": None,  # lr_generator x inner_steps
        "synthesis.start": "first_order",
        "synthesis.bn": 10.0,
        "synthesis.bn_past": 0.9,
        "synthesis.oh": None,  # by the teacher's family
        "synthesis.adv": None,
    }


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "fast_dfkd_2": _preset(2, 0.015, 5e-3),
    "fast_dfkd_5": _preset(5, 0.01, 3e-3),
    "fast_dfkd_10": _preset(10, 0.01, 2e-3),
}


@dataclass(frozen=True)
class Settings(bank.Settings):
    """What Fast-DFKD reads of a config."""

    smoothing: smoothing.Settings
    generator: generator.Settings
    start: generator.StartSettings
    latents: inversion.Latents


def derived(config: ConfigDict) -> dict[str, float]:
    """The weights of the teacher's family; those of wide residual networks for any other."""
    adv, oh = next((w for name, w in BY_FAMILY.items() if config.teacher.model.startswith(name)), BY_FAMILY["wrn"])
    return {"adv": adv, "oh": oh}


def make(s: Settings, problem: Problem) -> Method:
    """Fast-DFKD as a `Method`; the adversarial term sets in after the warm-up."""
    tx, inputs, past = s.generator.adam(), problem.inputs, s.smoothing.bn_past
    weights, network = gathered(
        lambda: s.weights.allowed(problem.has_batch_norm),
        lambda: s.generator.network(inputs.image_shape, problem.axis, problem.compute),
    )
    bn, oh, adv = terms.usual_terms(weights, problem.task)
    adv = adv._replace(weight=lambda rounds, full=adv.weight: jnp.where(rounds >= problem.warmup, full, 0.0))
    optimisers = inversion.Trained(tx, s.latents.adam(), optax.identity())
    smoothed = smoothing.over_rounds(problem.teacher, inputs.image_shape, past, smoothing.exponential(past))
    recipe = s.recipe([bn, oh, adv], optimisers, smoothed)
    return bank.make(network, s.start.make(tx), (s.generator.latent,), recipe, s.student_views(), problem)
