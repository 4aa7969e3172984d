"""The config of a run of which nothing is known but its two networks; eight rules, ours.

| what | rule |
|---|---|
| batch | 64 images, or the next multiple of the devices |
| generator | starts from 4 to 8 pixels a side, and doubles; a latent of at least twice the classes |
| classes | their student starts from its teacher and learns by Adam, from blended and procedural images, too |
| temperature | at least 12, and the scale of the logits, so that all of them are matched, not the largest alone |
| BatchNorm | hints are on for pixels, and for a method that is named, where both networks have one at a resolution |
| no BatchNorm | such a teacher is distilled on procedural images alone |
| cheap networks | more steps; without BatchNorm, then, each procedural image is the best of up to four |
| mirroring | off, since of digits, letters and signs a mirror image is another thing |
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax

from ssdkd_jax import config as settings
from ssdkd_jax import hints, models, presets
from ssdkd_jax.api import students
from ssdkd_jax.api.students import Student
from ssdkd_jax.api.teachers import Teacher
from ssdkd_jax.engine import parallel
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop.saved import Classifier
from ssdkd_jax.sources import procedural
from ssdkd_jax.teacher import has_batch_norm
from ssdkd_jax.types import Inputs, Network

if TYPE_CHECKING:
    from ml_collections import ConfigDict

BATCH, COARSE, LEAST_LATENT, REGRESSION = 64, 8, 128, 10.0
PROCEDURAL_FLOPS, ROUNDS, STEPS = 1e13, (25, 120), 50  # of all steps on procedural images; rounds, and steps of each
CANDIDATES = (1, 4)  # of which a procedural image is chosen
INVERTED_FLOPS = 2e12  # of all steps where images are inverted, too
INVERTED_STEPS, INVERTED_ROUNDS = (30, 100), (20, 45)  # of a round; that teach
LOOKED_AT, SOFT = 64, 12.0  # images, for the scale of a teacher's logits; the least temperature


def default_config(
    teacher: Teacher, student: Student, task: str = "classification", method: str | None = None
) -> ConfigDict:
    """The config that `distill` follows where none is given.

    Args:
        method: one of `ssdkd_jax.presets.PRESETS`, in the place of what four rules choose for such networks.
    """
    network = students.bound(student, teacher, axis=None)
    config = config_for(teacher.inputs, teacher.network, network)
    config.task.name = task
    if method is not None:
        return presets.apply(config, method)
    if task == "classification":
        from_teacher(config)
        config.student.temperature = max(SOFT, logit_scale(teacher))
        spend = on_inverted if has_batch_norm(teacher.variables) else on_procedural
        spend(config, *costs(teacher, network))
    return config


def config_for(inputs: Inputs, teacher: Network, student: Network) -> ConfigDict:
    """The config of a run of these two networks.

    Args:
        inputs: of both.
    """
    config, batch = settings.default(), parallel.padded(BATCH)
    config.data.name = "none"
    config.student.batch = batch
    config.student.regression = regression(inputs, teacher, student)
    config.synthesis.update(batch=batch, doublings=doublings(inputs.image_shape), width=32)
    config.synthesis.latent = max(LEAST_LATENT, 2 * inputs.classes)
    config.synthesis.inner_steps = 8
    config.buffer.size = max(10 * batch, 10 * inputs.classes)
    config.views.update(count=0, flip=False)
    config.sampler.name = "uniform"
    config.schedule.update(rounds=25, warmup=5, distill_steps=30, evaluate_every=5)
    config.yardstick_steps = 0
    return config


def from_teacher(config: ConfigDict) -> None:
    """Change a config for a student that starts from its teacher: it is good before its first step."""
    config.student.update(start="teacher", optimiser="adam", lr=0.006, regression=0.0, procedural=config.student.batch)
    config.views.mixup = 0.5
    config.synthesis.update(inner_steps=12, adv=1.0, class_code=2.0)


def on_inverted(config: ConfigDict, of_teacher: float, of_student: float) -> None:
    """Change a config for a teacher with BatchNorm.

    Args:
        of_teacher, of_student: FLOPs of an image.
    """
    of_step = (config.student.batch + config.student.procedural) * (of_teacher + 3 * of_student)
    steps = affordable(INVERTED_FLOPS, INVERTED_ROUNDS[0] * of_step, INVERTED_STEPS)
    rounds = affordable(INVERTED_FLOPS, steps * of_step, INVERTED_ROUNDS)
    config.schedule.update(rounds=config.schedule.warmup + rounds, distill_steps=steps, evaluate_every=rounds // 4)


def on_procedural(config: ConfigDict, of_teacher: float, of_student: float) -> None:
    """Change a config for a teacher without BatchNorm, whose inverted images mislead a student.

    Args:
        of_teacher, of_student: as of `on_inverted`.
    """
    presets.apply(config, "procedural")
    config.student.procedural = 0
    images = STEPS * config.student.batch
    rounds = affordable(PROCEDURAL_FLOPS, images * (of_teacher + 3 * of_student), ROUNDS)
    of_choice = PROCEDURAL_FLOPS / (rounds * images) - 3 * of_student
    config.procedural.candidates = affordable(of_choice, of_teacher, CANDIDATES)
    config.schedule.update(rounds=rounds, distill_steps=STEPS, evaluate_every=rounds // 5)


def costs(teacher: Classifier, student: Network) -> tuple[float, float]:
    """FLOPs of an image in each of the two networks."""
    of_student = models.flops(student, jax.eval_shape(student.init, jax.random.key(0)), teacher.image_shape)
    return models.flops(teacher.network, teacher.variables, teacher.image_shape), of_student


def affordable(flops: float, each: float, bounds: tuple[int, int]) -> int:
    """How many can be had for so many FLOPs, within the bounds; the lower one where it is not known what one takes."""
    low, high = bounds
    return int(min(max(low, flops / each), high)) if each > 0 else low  # low, too, where it is not a number


def logit_scale(teacher: Teacher) -> float:
    """The standard deviation of a teacher's logits over the classes, its mean over noise fields."""
    noise = parallel.quick_jit(partial(procedural.noise, count=LOOKED_AT, shape=teacher.image_shape))
    images = noise(jax.random.key(0))
    return float(jax.jit(teacher.network.apply)(teacher.variables, images).std(-1).mean())


def leave_a_round(config: ConfigDict) -> None:
    """Lower the warmup of a config until a round is left for the student."""
    config.schedule.warmup = max(0, min(config.schedule.warmup, config.schedule.rounds - 1))


def doublings(image_shape: tuple[int, int, int]) -> int:
    """How often the generator doubles its resolution: until it starts from at most `COARSE` pixels, if that divides."""
    height, width, _ = image_shape
    count = 1
    while max(height, width) > COARSE * 2**count and not (height % 2 ** (count + 1) or width % 2 ** (count + 1)):
        count += 1
    return count


def regression(inputs: Inputs, teacher: Network, student: Network) -> float:
    """The weight of the hints: 0 where the two networks have no BatchNorm at a common resolution."""
    try:
        hints.shared_resolutions(teacher, student, inputs.image_shape)
    except InputError:
        return 0.0
    return REGRESSION
