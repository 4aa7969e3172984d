"""Fast-DFKD (Fang et al., AAAI 2022): a meta-learnt generator that needs a few steps per batch, and a growing bank.

Of SSD-KD's pipeline it differs in three things: the bank (see bank.py), the average of the matched BatchNorm statistics
over rounds, which is exponential, and the adversarial term, which sets in after the student's first rounds. The meta
start, first-order or Reptile, is that of generator.py. Classes are asked for evenly, where the original draws them
independently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from ssdkd_jax import inversion, smoothing, teacher
from ssdkd_jax.methods import bank, ssdkd
from ssdkd_jax.types import Array, Key, Method, Metrics, ModelState, Synthesis, Task, Variables


def make(s: ssdkd.Settings, adv_from: int, models: inversion.Models, task: Task, axis: str | None) -> Method:
    """Fast-DFKD as a `Method`.

    Args:
        s: from `bank.settings`.
        adv_from: the first round with the adversarial term.
    """
    pool = ssdkd.make(s, models, task, axis)
    return bank.make(pool, lambda key: (), make_synthesis(s, adv_from, pool, models, task, axis))


def make_synthesis(
    s: ssdkd.Settings, adv_from: int, pool: Method, models: inversion.Models, task: Task, axis: str | None
) -> Synthesis:
    """Invert from the meta start; the scratch state carries the weight of the adversarial term."""
    loss = make_loss(s, models, task, axis)

    def begin(state: bank.State, key: Key) -> inversion.Work:
        work = pool.synthesis.begin(state.pool, key)
        return work.replace(extra=jnp.where(state.pool.round >= adv_from, s.weights.adv, 0.0))

    def finish(
        work: inversion.Work, state: bank.State, teacher_variables: Variables, student: ModelState, key: Key
    ) -> tuple[bank.State, Metrics]:
        stored, metrics = pool.synthesis.finish(work, state.pool, teacher_variables, student, key)
        return state.replace(pool=stored), metrics

    return Synthesis(begin, inversion.make_step(loss, s.tx, s.tx_z, axis), finish, s.inner_steps, loss)


def make_loss(s: ssdkd.Settings, models: inversion.Models, task: Task, axis: str | None) -> Callable:
    """bn * smoothed BN match + oh * CE + adv * adversarial (Fang et al. 2022); see `inversion.make_step`."""

    def loss(
        params: Any, z: Array, work: inversion.Work, teacher_variables: Variables, student_variables: Variables
    ) -> tuple[Array, tuple]:
        x, seen, variables = inversion.generate(models.generator, s.jitter, params, z, work, axis)
        f_t, moments = teacher.apply_with_moments(models.teacher, teacher_variables, seen, axis)
        f_s = models.student.apply(student_variables, seen)
        matched, smoothed = smoothing.smooth(moments, work.smoothing)

        bn = inversion.match(matched)
        oh = task.target_loss(f_t, work.targets).mean()
        adv = task.adversarial_loss(f_t, f_s).mean()
        total = s.weights.bn * bn + s.weights.oh * oh + work.extra * adv
        metrics = {"inversion": total, "bn": bn, "oh": oh, "adv": adv}
        return total, (x, variables, metrics, smoothed)

    return loss
