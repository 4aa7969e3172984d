"""The student's station: one step of distillation on a batch from the buffer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import optax

from ssdkd_jax import observe, optimization, parallel, peer_losses
from ssdkd_jax.types import Array, Batch, Metrics, ModelState, Network, Task


def make_step(
    network: Network, task: Task, tx: optax.GradientTransformation, axis: str | None, attention: float = 0.0
) -> Callable:
    """(student, batch) -> (student, gaps [B], metrics): one step down mean_b w_b loss_b.

    `gaps` are the teacher-student gaps delta of the batch before the step, for the sampler.

    Args:
        attention: weight of attention transfer; the batch then brings the teacher's maps.
    """

    def step(state: ModelState, batch: Batch) -> tuple[ModelState, Array, Metrics]:
        def loss(params: dict) -> tuple[Array, tuple]:
            call = partial(network.train, {**state.variables, "params": params}, batch.images)
            (logits, variables), seen = observe.layers(call, nn.BatchNorm)
            of_image = task.distillation_loss(batch.teacher_logits, logits)
            if attention:
                maps = [peer_losses.attention(features) for features in observe.stages(seen)]
                of_image = of_image + attention * peer_losses.attention_gap(batch.attention, maps)
            value = (batch.weights * of_image).mean()
            return value, (variables, value, logits)

        state, (value, logits) = optimization.update(state, tx, loss, axis)
        gaps = jax.lax.stop_gradient(task.gap(batch.teacher_logits, logits))
        metrics = {"distillation": value, "gap": gaps.mean(), "weight": batch.weights.mean()}
        return state, gaps, parallel.mean(metrics, axis)

    return step
