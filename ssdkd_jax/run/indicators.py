"""How a run goes, told without data: what teacher and student answer to fresh images, which no student has seen.

Fresh images are made as those of a round are, from latents of their own, and thrown away. What is told of them is ours:

    agreement         share of images, or of their pixels, that both networks give the same class
    fresh_kl          mean KL(f_t || f_s), in nats
    fresh_confidence  the teacher's mean largest probability
    fresh_balance     entropy of the classes that the teacher sees, over log C: 1 where all are as frequent
    fresh_bn          BN match of the batch; None for a teacher without BatchNorm
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssdkd_jax import build, losses, teacher
from ssdkd_jax.engine import keys, loop, parallel
from ssdkd_jax.types import Array, Network, Task, TrainState, Variables

NAMES = ("agreement", "fresh_kl", "fresh_confidence", "fresh_balance", "fresh_bn")
BATCHES = 4  # at the end of a run; one on the way
Fresh = Callable[[loop.Programs, TrainState, Variables, Variables, int], dict[str, float]]


def make(job: build.Job, seed: int) -> Fresh:
    """(programs, state, teacher variables, student's, batches) -> indicators; all are on the devices and stay.

    {} for a method that makes no images.
    """
    images_of = job.method.synthesis.images
    judge = parallel.pmap(make_judge(job.teacher, job.network, job.task, parallel.AXIS))

    def fresh(
        programs: loop.Programs, state: TrainState, teacher: Variables, student: Variables, batches: int = 1
    ) -> dict[str, float]:
        if images_of is None:
            return {}
        found = []
        for batch in range(batches):
            key = jax.random.key_data(keys.of_stage(keys.of_seed(seed), keys.Stage.FRESH, batch))
            work = programs.begin(state.replace(key=parallel.to_devices(key)))
            work, _ = programs.invert(work, teacher, state.student.variables)
            found.append(jax.device_get(parallel.unreplicate(judge(images_of(work), teacher, student))))
        return summary(jax.tree.map(lambda *x: np.mean(x, 0), *found))

    return fresh


def make_judge(
    teacher_network: Network, student: Network, task: Task, axis: str | None
) -> Callable[[Array, Variables, Variables], dict[str, Array]]:
    """(images [B, H, W, D], teacher variables, student's) -> means over the batch of all devices."""

    def judge(images: Array, teacher_variables: Variables, student_variables: Variables) -> dict[str, Array]:
        seen = teacher.observe(teacher_network, teacher_variables, images, axis)
        f_s = student.apply(student_variables, images)
        p = task.class_probabilities(seen.logits)
        means = {
            "agreement": jnp.mean(seen.logits.argmax(-1) == f_s.argmax(-1), dtype=jnp.float32),
            "fresh_kl": task.gap(seen.logits, f_s).mean(),
            "fresh_confidence": p.max(-1).mean(),
            "classes": jax.nn.one_hot(p.argmax(-1), task.classes).mean(0),
        }
        matched = {"fresh_bn": losses.batch_norm_match(seen.moments)} if seen.moments else {}
        return parallel.mean(means, axis) | matched

    return judge


def summary(means: dict[str, Any]) -> dict[str, float]:
    """The indicators from the means over all batches, on the host."""
    shares = means.pop("classes")
    entropy = -float(np.sum(shares * np.log(np.maximum(shares, 1e-12))))
    balance = entropy / math.log(len(shares)) if len(shares) > 1 else 1.0
    return {**{name: float(value) for name, value in means.items()}, "fresh_balance": float(balance)}


def told(last: dict[str, Any], first: dict[str, float]) -> dict[str, float]:
    """What a summary says: the indicators at the end, and BN match after the first round beside them."""
    found = {name: last[name] for name in NAMES if name in last}
    return found | ({"fresh_bn_first": first["fresh_bn"]} if "fresh_bn" in first and found else {})
