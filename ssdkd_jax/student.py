"""The student's station: one step of distillation on a batch from the buffer."""

from __future__ import annotations

from collections.abc import Callable

import jax
import optax

from ssdkd_jax.engine import optimization, parallel
from ssdkd_jax.hints import Hint
from ssdkd_jax.types import Array, Batch, Metrics, ModelState, Network, Task


def make_step(network: Network, task: Task, hint: Hint, tx: optax.GradientTransformation, axis: str | None) -> Callable:
    """(student, batch) -> (student, gaps [B], metrics): one step down mean_b w_b distillation_b + hint.

    `gaps` are the teacher-student gaps delta of the batch before the step, for the sampler.
    """

    def step(state: ModelState, batch: Batch) -> tuple[ModelState, Array, Metrics]:
        def loss(params: dict) -> tuple[Array, tuple]:
            run, variables = network.train, {**state.variables, "params": params}
            (logits, variables), hints = hint.observe(run, variables, batch.images)
            losses = task.distillation_loss(batch.teacher_logits, logits)
            value = (batch.weights * losses).mean() + hint.loss(batch.hints, hints, batch.weights)
            return value, (variables, value, logits)

        state, (value, logits) = optimization.update(state, tx, loss, axis)
        gaps = jax.lax.stop_gradient(task.gap(batch.teacher_logits, logits))
        metrics = {"distillation": value, "gap": gaps.mean(), "weight": batch.weights.mean()}
        return state, gaps, parallel.mean(metrics, axis)

    return step
