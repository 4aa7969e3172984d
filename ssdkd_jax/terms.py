"""The terms of the inversion loss: a name, a weight, and a function of what one forward pass shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp
import optax

from ssdkd_jax import losses, settings, teacher
from ssdkd_jax.settings import setting
from ssdkd_jax.types import Array, Task, Trained, Variables, Work


@settings.section("synthesis")
class Weights:
    """Weights of the three usual terms."""

    bn: float | None = setting(None, "of BN match; None: 3 if the teacher has any BatchNorm, else off", least=0)
    oh: float | None = setting(1.0, "of the class targets; None: as the method derives it", least=0)
    adv: float | None = setting(4.0, "of the adversarial term; None: likewise", least=0)

    def allowed(self, has_batch_norm: bool) -> Weights:
        """As far as the teacher allows; see `teacher.batch_norm_weight`."""
        return replace(self, bn=teacher.batch_norm_weight(has_batch_norm, self.bn))


class Observation(NamedTuple):
    """What one forward pass of the loss shows; every term is a function of it.

    Attributes:
        images: [B, H, W, D] in [0, 1], as generated.
        teacher: of the views: logits, moments to match, inputs of BatchNorms and Dense layers.
        student_logits: [B, C], of the same views.
        params: of generator, latents and head.
        work: the scratch state before the step.
        teacher_variables: for terms that ask the teacher about other views.
    """

    images: Array
    teacher: teacher.Observation
    student_logits: Array
    params: Trained
    work: Work
    teacher_variables: Variables


class Term(NamedTuple):
    """A term of the inversion loss.

    Attributes:
        name: in the metrics.
        weight: a number, or a schedule of the rounds before this one; 0 leaves the term out.
        value: Observation -> [B] or [B, H, W], which phi weights image by image, or [].
    """

    name: str
    weight: float | optax.Schedule
    value: Callable[[Observation], Array]

    def weight_after(self, rounds: Array) -> float | Array:
        """The weight after so many rounds."""
        return self.weight(rounds) if callable(self.weight) else self.weight


def usual_terms(weights: Weights, task: Task) -> list[Term]:
    """BN match, class targets (one-hot) and the adversarial term of the task."""
    return [
        batch_norm_term(weights.bn),
        Term("oh", weights.oh, lambda o: task.target_loss(o.teacher.logits, o.work.targets)),
        Term("adv", weights.adv, lambda o: task.adversarial_loss(o.teacher.logits, o.student_logits)),
    ]


def batch_norm_term(weight: float) -> Term:
    """BN match."""
    return Term("bn", weight, lambda o: losses.batch_norm_match(o.teacher.moments))


def weighted_mean(value: Array, weights: Array) -> Array:
    """mean_b w_b value_b of a term [B], pixels of dense tasks averaged first; a term [] as it is."""
    if value.ndim > 1:
        value = value.mean(tuple(range(1, value.ndim)))
    return jnp.mean(weights * value) if value.ndim else value
