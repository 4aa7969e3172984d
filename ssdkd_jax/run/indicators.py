"""How a run goes, told without data: what teacher and student answer to fresh images, which no student has seen.

Fresh images are made as those of a round are, from latents of their own, and thrown away. What is told of them is ours:

    agreement         share of images, or of their pixels, that both networks give the same class
    fresh_kl          mean KL(f_t || f_s), in nats
    fresh_confidence  the teacher's mean largest probability
    fresh_balance     entropy of the classes that the teacher sees, over log C: 1 where all are as frequent
    fresh_asked       the teacher's mean probability of the class that an image was asked to be of
    fresh_least       the same of the class that is reached least
    fresh_spread      in how many directions the images of a batch differ: (sum of eigenvalues of their covariance)^2 /
                      sum of their squares, from 1 to B - 1
    fresh_within      share of the pixels' variance that is within the teacher's classes, in [0, 1]
    fresh_bn          BN match of the batch
    fresh_bn_sd       how far the means at the teacher's BatchNorms are from the running ones, in standard deviations

The last two are None for a teacher without BatchNorm, those of asked classes for a method that asks for none. At the
end the images that the student was taught from are looked at, too:

    taught_agreement  as agreement
    taught_softness   entropy of the teacher's answers at the temperature of distillation, over log C
    taught_balance    as fresh_balance
    taught_least      share of the images that are of the rarest class, times C: 1 where all are as frequent
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssdkd_jax import build, losses, teacher
from ssdkd_jax.engine import keys, loop, parallel
from ssdkd_jax.interop.saved import Classifier
from ssdkd_jax.losses import Moments
from ssdkd_jax.run import evaluation, pictures
from ssdkd_jax.types import Array, Network, Preview, Task, TrainState, Variables

NAMES = (
    *("agreement", "fresh_kl", "fresh_confidence", "fresh_balance", "fresh_asked", "fresh_least", "fresh_spread"),
    *("fresh_within", "fresh_bn", "fresh_bn_sd"),
)
AT_END = ("taught_agreement", "taught_softness", "taught_balance", "taught_least")
BATCHES = 4  # at the end of a run; one on the way
TAUGHT = 256  # images at most that are looked at of those that the student was taught from
FAINT = 1e-3  # of a layer's mean variance, added to that of each feature: some are constant
Fresh = Callable[[loop.Programs, TrainState, Variables, Sequence[Variables], int], list[dict[str, float]]]


def make(job: build.Job, seed: int) -> Fresh:
    """(programs, state, teacher variables, students', batches) -> indicators of each; all are on the devices and stay.

    The images are made against the student of the state. {} for a method that makes no images.
    """
    synthesis = job.method.synthesis
    if synthesis.images is None:
        return none
    judge = parallel.pmap(make_judge(job.teacher, job.network, job.task, parallel.AXIS))

    def fresh(
        programs: loop.Programs, state: TrainState, teacher: Variables, students: Sequence[Variables], batches: int
    ) -> list[dict[str, float]]:
        found: list[list[dict[str, Any]]] = [[] for _ in students]
        for batch in range(batches):
            key = jax.random.key_data(keys.of_stage(keys.of_seed(seed), keys.Stage.FRESH, batch))
            work = programs.begin(state.replace(key=parallel.to_devices(key)))
            work, _ = programs.invert(work, teacher, state.student.variables)
            asked = synthesis.asked and synthesis.asked(work)
            for student, of_student in zip(students, found, strict=True):
                means = judge(synthesis.images(work), asked, teacher, student)
                of_student.append(jax.device_get(parallel.unreplicate(means)))
        return [summary(jax.tree.map(lambda *x: np.mean(x, 0), *of_student)) for of_student in found]

    return fresh


def none(
    programs: loop.Programs, state: TrainState, teacher: Variables, students: Sequence[Variables], batches: int
) -> list[dict[str, float]]:
    """Of each student nothing is told."""
    del programs, state, teacher, batches
    return [{} for _ in students]


def make_judge(
    teacher_network: Network, student: Network, task: Task, axis: str | None
) -> Callable[[Array, Array | None, Variables, Variables], dict[str, Array]]:
    """(images [B, H, W, D], asked int [B], teacher variables, student's) -> means over the batch of all devices."""

    def judge(
        images: Array, asked: Array | None, teacher_variables: Variables, student_variables: Variables
    ) -> dict[str, Array]:
        seen = teacher.observe(teacher_network, teacher_variables, images, axis)
        f_s = student.apply(student_variables, images)
        p = task.class_probabilities(seen.logits)
        classes = jax.nn.one_hot(p.argmax(-1), task.classes)
        means = {
            "agreement": jnp.mean(seen.logits.argmax(-1) == f_s.argmax(-1), dtype=jnp.float32),
            "fresh_kl": task.gap(seen.logits, f_s).mean(),
            "fresh_confidence": p.max(-1).mean(),
            "classes": classes.mean(0),
        }
        if asked is not None:
            of_asked = jax.nn.one_hot(asked, task.classes)
            reached = jnp.exp(-task.target_loss(seen.logits, asked))
            means |= {"asked": of_asked.mean(0), "reached": (of_asked * reached[:, None]).mean(0)}
        matched = {"fresh_bn": losses.batch_norm_match(seen.moments)} if seen.moments else {}
        shifted = {"fresh_bn_sd": shift(seen.moments)} if seen.moments else {}
        return parallel.mean(means, axis) | matched | shifted | diversity(images, classes, axis)

    return judge


def shift(moments: Sequence[Moments]) -> Array:
    """Mean distance of means from the running ones, in running standard deviations, over features, then layers."""

    def of_layer(m: Moments) -> Array:
        return jnp.mean(jnp.abs(m.mean - m.running_mean) / jnp.sqrt(m.running_var + FAINT * m.running_var.mean()))

    return jnp.stack([of_layer(m) for m in moments]).mean()


def diversity(images: Array, classes: Array, axis: str | None) -> dict[str, Array]:
    """`fresh_spread` and `fresh_within` of the images of all devices.

    Args:
        images: [B, H, W, D].
        classes: one-hot [B, C].
    """
    x, classes = (parallel.all_rows(rows, axis) for rows in (images.reshape(len(images), -1), classes))
    centred = x - x.mean(0)
    gram = centred @ centred.T  # its eigenvalues but the zeros are those of the covariance, up to a factor
    count = classes.sum(0)[:, None]
    of_class = classes @ (classes.T @ x / jnp.maximum(count, 1))
    whole = jnp.maximum(gram.trace(), 1e-12)
    return {
        "fresh_spread": whole**2 / jnp.maximum((gram**2).sum(), 1e-12),
        "fresh_within": ((x - of_class) ** 2).sum() / whole,
    }


def summary(means: dict[str, Any]) -> dict[str, float]:
    """The indicators from the means over all batches, on the host."""
    shares, asked, reached = means.pop("classes"), means.pop("asked", None), means.pop("reached", None)
    found = {**{name: float(value) for name, value in means.items()}, "fresh_balance": balance(shares)}
    if asked is None:
        return found
    of_class = reached[asked > 0] / asked[asked > 0]
    return {**found, "fresh_asked": float(reached.sum()), "fresh_least": float(of_class.min(initial=1.0))}


def balance(shares: np.ndarray) -> float:
    """The entropy of the classes' shares over that of even ones; 1 where there is one class alone."""
    entropy = -float(np.sum(shares * np.log(np.maximum(shares, 1e-12))))
    return entropy / math.log(len(shares)) if len(shares) > 1 else 1.0


def taught(teacher: Classifier, student: Classifier, rows: Preview, temperature: float) -> dict[str, float]:
    """What is told of the images that the student was taught from, of some of them; {} where there are none."""
    if not len(rows.images):
        return {}
    few = rows.images[np.linspace(0, len(rows.images) - 1, min(TAUGHT, len(rows.images))).astype(int)]
    step = evaluation.at_once(*few.shape[1:3])
    parts = [few[at : at + step] for at in range(0, len(few), step)]
    f_t, f_s = (np.concatenate([network(part) for part in parts]) for network in (teacher, student))
    p = jax.nn.softmax(f_t / temperature)
    entropy = -np.sum(p * np.log(np.maximum(p, 1e-12)), -1).mean() / math.log(max(2, teacher.classes))
    shares = np.array(pictures.class_counts(rows, teacher.classes)) / len(rows.label)
    return {
        "taught_agreement": float(np.mean(f_t.argmax(-1) == f_s.argmax(-1))),
        "taught_softness": float(entropy),
        "taught_balance": balance(shares),
        "taught_least": float(shares.min() * teacher.classes),
    }


def told(last: dict[str, Any], first: dict[str, float]) -> dict[str, float]:
    """What a summary says: the indicators at the end, and BN match after the first round beside them."""
    found = {name: last[name] for name in (*NAMES, *AT_END) if name in last}
    return found | ({"fresh_bn_first": first["fresh_bn"]} if "fresh_bn" in first and found else {})
