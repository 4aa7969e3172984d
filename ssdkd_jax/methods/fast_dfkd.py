"""Fast-DFKD (Fang et al., AAAI 2022): a meta-learnt generator that needs a few steps per batch, and a growing bank.

Of SSD-KD's pipeline it differs in three things: the bank (see bank.py), the BatchNorm statistics, which are smoothed
over rounds, and the adversarial term, which sets in after the student's first rounds. The meta start, first-order or
Reptile, is that of generator.py. Classes are asked for evenly, where the original draws them independently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ssdkd_jax import inversion, teacher
from ssdkd_jax.losses import Moments
from ssdkd_jax.methods import bank, ssdkd
from ssdkd_jax.types import Array, Key, Method, Metrics, ModelState, Synthesis, Task, Variables


def make(
    s: ssdkd.Settings, momentum: float, adv_from: int, models: inversion.Models, task: Task, axis: str | None
) -> Method:
    """Fast-DFKD as a `Method`.

    Args:
        s: from `bank.settings`.
        momentum: of the BatchNorm statistics over rounds; 0 matches those of each batch alone.
        adv_from: the first round with the adversarial term.
    """
    pool = ssdkd.make(s, models, task, axis)

    def statistics(_: Key) -> list[tuple[Array, Array]]:
        shapes = jax.eval_shape(lambda key: _statistics(models, key, s.image_shape), jax.random.key(0))
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    return bank.make(pool, statistics, make_synthesis(s, momentum, adv_from, pool, models, task, axis))


def _statistics(models: inversion.Models, key: Key, image_shape: tuple[int, int, int]) -> list[tuple[Array, Array]]:
    images = jnp.zeros((1, *image_shape))
    _, moments = teacher.apply_with_moments(models.teacher, models.teacher.init(key), images)
    return [(m.mean, m.var) for m in moments]


def make_synthesis(
    s: ssdkd.Settings,
    momentum: float,
    adv_from: int,
    pool: Method,
    models: inversion.Models,
    task: Task,
    axis: str | None,
) -> Synthesis:
    """Invert from the meta start; the statistics of the round's last batch enter the smoothed ones."""
    loss = make_loss(s, models, task, axis)

    def begin(state: bank.State, key: Key) -> inversion.Work:
        work = pool.synthesis.begin(state.pool, key)
        extra = {
            "smoothed": state.own,
            "momentum": jnp.where(state.pool.round > 0, momentum, 0.0),
            "adv": jnp.where(state.pool.round >= adv_from, s.weights.adv, 0.0),
            "last": state.own,
        }
        return work.replace(extra=extra)

    def finish(
        work: inversion.Work, state: bank.State, teacher_variables: Variables, student: ModelState, key: Key
    ) -> tuple[bank.State, Metrics]:
        m = work.extra["momentum"]
        own = jax.tree.map(lambda old, new: m * old + (1 - m) * new, state.own, work.extra["last"])
        stored, metrics = pool.synthesis.finish(work, state.pool, teacher_variables, student, key)
        return bank.State(pool=stored, own=own), metrics

    return Synthesis(begin, inversion.make_step(loss, s.tx, s.tx_z, axis), finish, s.inner_steps, loss)


def smooth(moments: Sequence[Moments], smoothed: Sequence[tuple[Array, Array]], momentum: Array) -> list[Moments]:
    """Each batch statistic as (1 - momentum) * its value + momentum * the smoothed one of earlier rounds."""
    return [
        m._replace(mean=(1 - momentum) * m.mean + momentum * mean, var=(1 - momentum) * m.var + momentum * var)
        for m, (mean, var) in zip(moments, smoothed, strict=True)
    ]


def make_loss(s: ssdkd.Settings, models: inversion.Models, task: Task, axis: str | None) -> Callable:
    """bn * smoothed BN match + oh * CE + adv * adversarial (Fang et al. 2022); see `inversion.make_step`."""

    def loss(
        params: Any, z: Array, work: inversion.Work, teacher_variables: Variables, student_variables: Variables
    ) -> tuple[Array, tuple]:
        x, seen, variables = inversion.generate(models.generator, s.jitter, params, z, work, axis)
        f_t, moments = teacher.apply_with_moments(models.teacher, teacher_variables, seen, axis)
        f_s = models.student.apply(student_variables, seen)
        extra = work.extra

        bn = inversion.match(smooth(moments, extra["smoothed"], extra["momentum"]))
        oh = task.target_loss(f_t, work.targets).mean()
        adv = task.adversarial_loss(f_t, f_s).mean()
        total = s.weights.bn * bn + s.weights.oh * oh + extra["adv"] * adv
        metrics = {"inversion": total, "bn": bn, "oh": oh, "adv": adv}
        return total, (x, variables, metrics, {**extra, "last": [(m.mean, m.var) for m in moments]})

    return loss
