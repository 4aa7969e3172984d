"""From a configuration to the values that it names; the only reader of config fields."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from ssdkd_jax import (
    augment,
    baselines,
    fit,
    generator,
    hints,
    inversion,
    models,
    modulation,
    sampler,
    smoothing,
    student,
    teacher,
)
from ssdkd_jax.engine import loop, optimization, parallel, supervised
from ssdkd_jax.methods import ssdkd
from ssdkd_jax.tasks import classification, segmentation
from ssdkd_jax.types import Inputs, Method, Network, Task, Variables


class Job(NamedTuple):
    """A distillation, ready to run: its method, its student, and how many rounds of what."""

    task: Task
    method: Method
    network: Network
    tx: optax.GradientTransformation
    step: loop.StudentStep
    plan: loop.Plan


SAMPLERS = ("uniform", "priority", "policy_gradient")


def for_devices(config: ConfigDict) -> ConfigDict:
    """The config with global batches: where `batch_per_device` is set, each is multiplied by the devices."""
    config = config.copy_and_resolve_references()
    if config.batch_per_device:
        for part in (config.teacher, config.student, config.synthesis):
            part.batch *= parallel.total_devices()
    return config


def network(name: str, inputs: Inputs, axis: str | None = parallel.AXIS, compute: str = "float32") -> Network:
    """The classifier `name` for these inputs."""
    module = models.by_name(name, inputs.classes)
    return models.bind(module, inputs.image_shape, inputs.mean, inputs.std, axis, compute)


def task(config: ConfigDict, classes: int) -> Task:
    """The task that the config names.

    Raises:
        ValueError: for an unknown name.
    """
    c, temperature = config.task, config.student.temperature
    tasks = {
        "classification": lambda: classification.make(classes, temperature),
        "segmentation": lambda: segmentation.make(classes, temperature, c.presence),
    }
    if c.name not in tasks:
        raise ValueError(f"task.name = '{c.name}' is not one of {', '.join(tasks)}.")
    return tasks[c.name]()


def teacher_recipe(config: ConfigDict, images: int) -> supervised.Recipe:
    """How the teacher is trained on `images` real images."""
    c = config.teacher
    steps = c.epochs * (images // c.batch)
    tx = optimization.sgd(c.lr, steps, c.weight_decay, c.warmup)
    view = augment.make(c.flip, c.shift, config.data.crop)
    return supervised.Recipe(c.epochs, c.batch, tx, view, config.schedule.max_skipped)


def yardstick_recipe(config: ConfigDict) -> supervised.Recipe:
    """The student's, for one pass over the real subset repeated to `yardstick_steps` batches."""
    c = config.student
    tx = optimization.sgd(c.lr, config.yardstick_steps, c.weight_decay, c.warmup)
    view = augment.make(config.teacher.flip, config.teacher.shift, config.data.crop)
    batch = min(c.batch, config.buffer.size)
    return supervised.Recipe(epochs=1, batch=batch, tx=tx, view=view, max_skipped=config.schedule.max_skipped)


def student_steps(config: ConfigDict) -> int:
    """Distillation steps of the whole run."""
    return (config.schedule.rounds - config.schedule.warmup) * config.schedule.distill_steps


def the_sampler(config: ConfigDict, classes: int) -> sampler.Sampler:
    """The sampler that the config names.

    Raises:
        ValueError: for an unknown name.
    """
    c = config.sampler
    if c.name == "uniform":
        return sampler.uniform()
    if c.name == "priority":
        return sampler.priority(c.alpha, c.epsilon)
    if c.name == "policy_gradient":
        return sampler.policy_gradient(classes, c.alpha, c.epsilon, c.lr, c.entropy)
    raise ValueError(f"sampler.name = '{c.name}' is not one of {', '.join(SAMPLERS)}.")


def the_start(config: ConfigDict, inner: optax.GradientTransformation) -> generator.Start:
    """How the generator persists over rounds.

    Raises:
        ValueError: for an unknown name.
    """
    c = config.synthesis
    meta = optax.adam(c.lr_meta, b1=0.5)
    starts = {
        "sequential": lambda: generator.sequential(inner),
        "reptile": lambda: generator.reptile(inner, meta),
        "first_order": lambda: generator.first_order(inner, meta),
    }
    if c.start not in starts:
        raise ValueError(f"synthesis.start = '{c.start}' is not one of {', '.join(starts)}.")
    return starts[c.start]()


def the_hint(
    config: ConfigDict, teacher: Network, student: Network, image_shape: tuple[int, int, int], axis: str | None
) -> hints.Hint:
    """What the student is shown of the teacher beside its logits.

    Raises:
        ValueError: where the config asks for two kinds of hints, or the two networks share no resolution.
    """
    attention, regression = config.student.attention, config.student.regression
    if attention and regression:
        raise ValueError(
            f"student.attention = {attention} and student.regression = {regression} are two kinds of hints; "
            "set one of them to 0."
        )
    if not attention and not regression:
        return hints.none()
    shared = hints.shared_resolutions(teacher, student, image_shape)
    return hints.attention(attention, tuple(shared)) if attention else hints.regression(regression, shared, axis)


def settings(config: ConfigDict, inputs: Inputs, bn: float, hint: hints.Hint) -> ssdkd.Settings:
    """The pieces of SSD-KD that the config asks for."""
    c, m = config.synthesis, config.modulation
    tx = optax.adam(c.lr_generator, b1=0.5)
    return ssdkd.Settings(
        image_shape=tuple(inputs.image_shape),
        slots=config.buffer.size,
        synthesis_batch=c.batch,
        student_batch=config.student.batch,
        inner_steps=c.inner_steps,
        latent_size=c.latent,
        class_code=c.class_code,
        weights=inversion.Weights(bn, c.oh, c.adv),
        bn_past=c.bn_past,
        bn_average=smoothing.of_the_last(config.buffer.size / c.batch),
        tx=tx,
        tx_z=optax.adam(c.lr_latent, b1=0.5),
        start=the_start(config, tx),
        phi=modulation.make(m.diversity, m.difficulty, m.gamma),
        phi_clip=m.clip,
        jitter=augment.make(c.flip, c.shift),
        ask=modulation.ask if m.diversity else modulation.ask_evenly,
        level_classes=m.diversity,
        half_life=config.buffer.half_life,
        epsilon=config.sampler.epsilon,
        sampler=the_sampler(config, inputs.classes),
        beta=optax.linear_schedule(config.sampler.beta, 1.0, student_steps(config)),
        view=augment.make(config.views.flip, config.views.shift),
        views=config.views.count,
        mixup=the_mixup(config),
        hint=hint,
    )


def the_mixup(config: ConfigDict) -> optax.Schedule | None:
    """Student step -> the share of images to blend; None where that is none."""
    share, end = config.views.mixup, config.views.mixup_until * student_steps(config)
    return (lambda step: jnp.where(step < end, share, 0.0)) if share else None


def the_method(parts: baselines.Parts) -> Method:
    """The method that the config names.

    Raises:
        ValueError: for an unknown name.
    """
    methods = {"ssdkd": a_ssdkd, **baselines.METHODS}
    name = parts.config.method.name
    if name not in methods:
        raise ValueError(f"method.name = '{name}' is not one of {', '.join(methods)}.")
    return methods[name](parts)


def a_ssdkd(parts: baselines.Parts) -> Method:
    """SSD-KD."""
    return ssdkd.make(
        settings(parts.config, parts.inputs, parts.bn, parts.hint), parts.networks, parts.task, parts.axis
    )


def job(
    config: ConfigDict,
    inputs: Inputs,
    teacher_network: Network,
    teacher_variables: Variables,
    axis: str | None = parallel.AXIS,
    images: np.ndarray | None = None,
) -> Job:
    """Everything that `train.run` needs.

    Args:
        images: uint8 [M, H, W, D], what the yardstick 'given' distils on.

    Raises:
        ValueError: where the config does not fit the devices, the images or the teacher.
    """
    student_network = network(config.student.model, inputs, axis, config.compute)
    fit.check(config, inputs, teacher_network, teacher_variables, student_network)
    bn = teacher.check_batch_norm(teacher_variables, config.synthesis.bn)
    the_task = task(config, inputs.classes)
    the_generator = models.Generator(tuple(inputs.image_shape), config.synthesis.width, config.synthesis.doublings)
    generator_network = models.bind(the_generator, (config.synthesis.latent,), axis=axis, compute=config.compute)
    networks = inversion.Models(generator_network, teacher_network, student_network)
    start = the_start(config, optax.adam(config.synthesis.lr_generator, b1=0.5))
    hint = the_hint(config, teacher_network, student_network, inputs.image_shape, axis)
    method = the_method(baselines.Parts(config, inputs, bn, start, hint, networks, the_task, images, axis))
    s = config.student
    tx = optimization.sgd(s.lr, student_steps(config), s.weight_decay, s.warmup)
    step = student.make_step(student_network, baselines.taught(config, the_task), hint, tx, axis)
    schedule = config.schedule
    plan = loop.Plan(schedule.rounds, schedule.warmup, schedule.distill_steps, schedule.max_skipped)
    return Job(the_task, method, student_network, tx, step, plan)
