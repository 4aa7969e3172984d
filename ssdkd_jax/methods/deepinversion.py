"""DeepInversion (Yin et al., CVPR 2020): no generator; a batch's pixels are optimised, and kept in a growing bank.

The pixels take the place of the latents z, and the generator is the map from normalised pixels to images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ssdkd_jax import generator, inversion, modulation, smoothing, teacher
from ssdkd_jax.methods import bank, peer_losses, ssdkd
from ssdkd_jax.types import Array, Key, Method, Metrics, ModelState, Network, Synthesis, Task, Variables


class Prior(NamedTuple):
    """What DeepInversion adds to the three inversion terms.

    Attributes:
        tv: weight of total variation.
        temperature: T of the Jensen-Shannon term.
    """

    tv: float
    temperature: float


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


def make(s: ssdkd.Settings, prior: Prior, models: inversion.Models, task: Task, axis: str | None) -> Method:
    """DeepInversion as a `Method`.

    Args:
        s: from `bank.settings`, with `adam_on_pixels` as `tx_z`.
        models: with `pixels` as the generator.
    """
    s = s._replace(tx=optax.identity(), start=generator.sequential(optax.identity()))
    pool = ssdkd.make(s, models, task, axis)
    return bank.make(pool, lambda key: (), make_synthesis(s, prior, pool, models, task, axis))


def make_synthesis(
    s: ssdkd.Settings, prior: Prior, pool: Method, models: inversion.Models, task: Task, axis: str | None
) -> Synthesis:
    """Start from noise of the data's mean and variance, and optimise it for `s.inner_steps`."""
    loss = make_loss(s, prior, models, task, axis)

    def begin(state: bank.State, key: Key) -> inversion.Work:
        key_targets, key_z, key_views = jax.random.split(key, 3)
        even = modulation.ask_evenly(jnp.zeros(task.classes), s.synthesis_batch)
        work = inversion.begin(
            state.pool.generator,
            state.pool.generator.opt_state,
            task.targets(key_targets, even, s.synthesis_batch),
            jax.random.normal(key_z, (s.synthesis_batch, *s.image_shape)),
            jnp.zeros(task.classes),
            key_views,
            image_shape=s.image_shape,
            tx_z=s.tx_z,
            axis=axis,
        )
        return work.replace(smoothing=smoothing.begin(state.pool.past, state.pool.round, s.bn_past, s.bn_average))

    def finish(
        work: inversion.Work, state: bank.State, teacher_variables: Variables, student: ModelState, key: Key
    ) -> tuple[bank.State, Metrics]:
        stored, metrics = pool.synthesis.finish(work, state.pool, teacher_variables, student, key)
        return state.replace(pool=stored), metrics

    return Synthesis(begin, inversion.make_step(loss, s.tx, s.tx_z, axis), finish, s.inner_steps, loss)


def make_loss(s: ssdkd.Settings, prior: Prior, models: inversion.Models, task: Task, axis: str | None) -> Callable:
    """bn * BN match + oh * CE + adv (1 - JS) + tv * TV (Yin et al. 2020); see `inversion.make_step`."""

    def loss(
        params: Any, z: Array, work: inversion.Work, teacher_variables: Variables, student_variables: Variables
    ) -> tuple[Array, tuple]:
        x, seen, variables = inversion.generate(models.generator, s.jitter, params, z, work, axis)
        f_t, moments = teacher.apply_with_moments(models.teacher, teacher_variables, seen, axis)
        f_s = models.student.apply(student_variables, seen)

        bn = inversion.match(moments)
        oh = task.target_loss(f_t, work.targets).mean()
        adv = peer_losses.competition(f_t, f_s, prior.temperature).mean()
        tv = peer_losses.total_variation(x, axis)
        total = s.weights.bn * bn + s.weights.oh * oh + s.weights.adv * adv + prior.tv * tv
        return total, (x, variables, {"inversion": total, "bn": bn, "oh": oh, "adv": adv, "tv": tv})

    return loss
