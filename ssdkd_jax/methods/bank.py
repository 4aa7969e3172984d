"""A bank that holds every image of a run and is drawn uniformly: what Fast-DFKD, DeepInversion and CMI share.

It is SSD-KD's buffer with as many slots as the run makes images, phi off and no importance weights;
shapes are static, so the bank is as large from the start as it will be in the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import jax
import optax

from ssdkd_jax import augment, generator, hints, inversion, modulation, sampler, smoothing
from ssdkd_jax.methods import ssdkd
from ssdkd_jax.types import Array, Batch, Key, Method, Preview, Synthesis, Variables


@chex.dataclass(frozen=True)
class State:
    """The bank with its generator, and what else a method remembers."""

    pool: ssdkd.State
    own: Any


def settings(
    *,
    image_shape: tuple[int, int, int],
    slots: int,
    synthesis_batch: int,
    student_batch: int,
    inner_steps: int,
    latent_size: int,
    weights: inversion.Weights,
    bn_past: float,
    tx: optax.GradientTransformation,
    tx_z: optax.GradientTransformation,
    start: generator.Start,
    hint: hints.Hint,
    jitter: augment.View,
    view: augment.View,
    views: int,
) -> ssdkd.Settings:
    """SSD-KD's settings with all that is SSD-KD's switched off; see `ssdkd.Settings` for the meaning of each."""
    return ssdkd.Settings(
        image_shape=image_shape,
        slots=slots,
        synthesis_batch=synthesis_batch,
        student_batch=student_batch,
        inner_steps=inner_steps,
        latent_size=latent_size,
        class_code=0.0,
        weights=weights,
        bn_past=bn_past,
        bn_average=smoothing.exponential(bn_past),
        tx=tx,
        tx_z=tx_z,
        start=start,
        phi=modulation.make(False, False, 0.0),
        phi_clip=1.0,
        jitter=jitter,
        ask=modulation.ask_evenly,
        level_classes=False,
        half_life=0.0,
        epsilon=0.0,
        sampler=sampler.uniform(),
        beta=optax.constant_schedule(0.0),
        view=view,
        views=views,
        mixup=None,
        hint=hint,
    )


def make(pool: Method, own: Callable[[Key], Any], synthesis: Synthesis) -> Method:
    """The method that synthesises by `synthesis` and otherwise draws from the bank.

    Args:
        pool: `ssdkd.make` of the `settings` above.
        own: key -> what the method remembers besides.
        synthesis: over `State`.
    """

    def init(key: Key) -> State:
        key_pool, key_own = jax.random.split(key)
        return State(pool=pool.init(key_pool), own=own(key_own))

    def sample(state: State, teacher_variables: Variables, student_step: Array, key: Key) -> Batch:
        return pool.sample(state.pool, teacher_variables, student_step, key)

    def preview(state: State, teacher_variables: Variables, key: Key) -> Preview:
        return pool.preview(state.pool, teacher_variables, key)

    return Method(
        init, synthesis, sample, feedback=lambda state, *_: state, preview=preview, images_made=pool.images_made
    )
