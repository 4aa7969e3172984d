"""The student's station: one step of distillation on a batch from the buffer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import chex
import jax
import optax

from ssdkd_jax import settings
from ssdkd_jax.engine import optimization, parallel
from ssdkd_jax.hints import Hint
from ssdkd_jax.settings import setting
from ssdkd_jax.types import Array, Batch, Key, Metrics, ModelState, Network, Task

OPTIMISERS = {"sgd": optimization.sgd, "adam": optimization.adam}
Step = Callable[..., tuple[ModelState, Array, Metrics]]


@settings.section("student")
class Settings:
    """The student, and how it learns."""

    model: str = setting("wrn10_1", "as teacher.model")
    batch: int = setting(128, "global batch", least=1)
    optimiser: str = setting(
        "sgd", "with momentum; adam: steps whose size the logits' scale does not change", choices=tuple(OPTIMISERS)
    )
    lr: float = setting(0.1, "highest learning rate", above=0)
    weight_decay: float = setting(5e-4, "added to the gradient", least=0)
    warmup: float = setting(0.05, "fraction of the steps in which the learning rate rises", least=0, below=1)
    temperature: float = setting(4.0, "T of the distillation loss", least=0.01, most=1000)
    update_bn: int = setting(0, "batches that renew its BatchNorm statistics before it is judged or saved", least=0)

    def descent(self, steps: int) -> optax.GradientTransformation:
        """The optimiser of a run of so many steps."""
        return OPTIMISERS[self.optimiser](self.lr, steps, self.weight_decay, self.warmup)


def make_step(network: Network, task: Task, hint: Hint, tx: optax.GradientTransformation, axis: str | None) -> Step:
    """(student, batch, key=None) -> (student, gaps [B], metrics): one step down mean_b w_b distillation_b + hint.

    A student with layers that draw, as Dropout, needs the key. `gaps` are the teacher-student gaps delta of the
    batch before the step, for the sampler.

    Raises:
        AssertionError: at a batch whose images, answers and weights are not B each.
    """

    def step(state: ModelState, batch: Batch, key: Key | None = None) -> tuple[ModelState, Array, Metrics]:
        chex.assert_rank((batch.images, batch.weights), (4, 1))
        chex.assert_equal_shape_prefix((batch.images, batch.teacher_logits, batch.weights), 1)

        run = network.train if key is None else partial(network.train, key=parallel.local_key(key, axis))

        def loss(params: dict) -> tuple[Array, tuple]:
            variables = {**state.variables, "params": params}
            (logits, variables), hints = hint.observe(run, variables, batch.images)
            losses = task.distillation_loss(batch.teacher_logits, logits)
            value = (batch.weights * losses).mean() + hint.loss(batch.hints, hints, batch.weights)
            return value, (variables, value, logits)

        state, (value, logits) = optimization.update(state, tx, loss, axis)
        gaps = jax.lax.stop_gradient(task.gap(batch.teacher_logits, logits))
        metrics = {"distillation": value, "gap": gaps.mean(), "weight": batch.weights.mean()}
        return state, gaps, parallel.mean(metrics, axis)

    return step
