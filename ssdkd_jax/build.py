"""From a configuration to a distillation that is ready to run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import optax

from ssdkd_jax import (
    checks,
    closed_form,
    hints,
    methods,
    models,
    replay_buffer,
    settings,
    student,
    tasks,
    teacher,
)
from ssdkd_jax.engine import loop, parallel
from ssdkd_jax.errors import Faults
from ssdkd_jax.methods import beside
from ssdkd_jax.models import shares
from ssdkd_jax.settings import setting
from ssdkd_jax.types import Inputs, Method, Network, Task, Variables

if TYPE_CHECKING:
    from ml_collections import ConfigDict


@settings.section("")
class Run:
    """What concerns the whole run."""

    seed: int = setting(0, "decides the whole run", least=0, most=2**31 - 1)
    compute: str = setting(
        "float32", "parameters, BatchNorm statistics and losses are float32 all the same", choices=models.COMPUTE
    )
    batch_per_device: bool = setting(False, "batches are of each device: the global ones grow with the devices")
    yardstick_steps: int = setting(100, "of the student on as many real images as the buffer holds; 0: none", least=0)
    measure_unit: bool = setting(False, "also time one distillation step with the teacher in the loop, logits alone")


@settings.section("data")
class Data:
    """The real images: they train a teacher and measure accuracy."""

    name: str = setting("digits", "one of data.load's; none: the run does without, and tells what needs no data")
    folder: str = setting("", "of the IDX .gz files, or tfds's data directory; '' for tfds's own")
    crop: int = setting(0, "side of the squares cut at random from real images, and of synthetic ones; 0: all", least=0)


@settings.section("method")
class MethodName:
    """Which method."""

    name: str = setting("ssdkd", "a file of ssdkd_jax/methods", choices=tuple(methods.modules()))


@settings.section("schedule")
class Schedule:
    """How long a run is, and what happens beside it."""

    rounds: int = setting(40, "in all", least=1)
    warmup: int = setting(5, "rounds that only make images", least=0)
    distill_steps: int = setting(50, "student steps in each later round", least=1)
    evaluate_every: int = setting(10, "rounds", least=1)
    checkpoint_seconds: float = setting(30.0, "between checkpoints, at least; a kill costs that and a round", least=0)
    max_skipped: int = setting(10, "steps in a row, each skipped as not finite, that stop the run", least=1)

    def faults(self) -> Iterator[str]:
        """Where no round is left for the student."""
        if self.warmup >= self.rounds:
            yield (
                f"schedule.warmup = {self.warmup} leaves none of the {self.rounds} rounds (schedule.rounds) for "
                "distillation; lower it."
            )


class Job(NamedTuple):
    """A distillation, ready to run: its method, its two networks, how many rounds of what, and the student's start."""

    task: Task
    method: Method
    teacher: Network
    network: Network
    tx: optax.GradientTransformation
    step: student.Step
    plan: loop.Plan
    start: closed_form.StartImages | None


class Choices(NamedTuple):
    """What a config asks for, read as a whole before anything is built.

    Attributes:
        student, hint, start, procedural: the student's settings.
        method: the settings of the chosen method.
        task: of the data's classes.
        reader: knows which fields of the config were read.
    """

    student: student.Settings
    hint: hints.Settings
    start: closed_form.StartImages | None
    procedural: int
    method: Any
    task: Task
    reader: settings.Reader


def choices(config: ConfigDict, classes: int, names: Iterable[str] = ()) -> Choices:
    """Everything that the run of a resolved config reads.

    Args:
        names: dotted names of what somebody has set, on the command line or otherwise.

    Raises:
        InputError: a line for each field that is out of range or that nothing knows, for fields that do not agree,
            and for each of `names` that the run does not read.
    """
    reader, method, chosen_task = settings.Reader(config), None, None
    for record in (Data, MethodName, Schedule, teacher.Settings):
        reader(record)
    if reader(Run).yardstick_steps:
        reader(replay_buffer.Size)
    settings_of_student, hint = reader(student.Settings), reader(hints.Settings)
    start, procedural = closed_form.StartImages.chosen(reader), reader(beside.Settings).procedural
    with reader.faults:
        chosen_task = tasks.from_config(reader, classes, settings_of_student.temperature)
    with reader.faults:
        method = reader(methods.by_name(config.method.name).Settings)
    reader.refuse_unread(names)
    reader.faults.extend(checks.disagreements(config, reader.read_fields))
    reader.faults.report()
    return Choices(settings_of_student, hint, start, procedural, method, chosen_task, reader)


def records(config: ConfigDict) -> tuple[type, ...]:
    """The records of sections that the method of a config consists of."""
    return tuple(settings.sections(methods.by_name(config.method.name).Settings))


def for_devices(config: ConfigDict) -> ConfigDict:
    """The config with global batches: where `batch_per_device` is set, each is multiplied by the devices."""
    config = config.copy_and_resolve_references()
    if config.batch_per_device:
        for part in (config.teacher, config.student, config.synthesis):
            part.batch = part.batch and part.batch * parallel.total_devices()
        config.student.procedural *= parallel.total_devices()
    return config


def resolved(config: ConfigDict) -> ConfigDict:
    """The config with what follows from other fields in the place of None; `synthesis.bn` waits for the teacher."""
    config = config.copy_and_resolve_references()
    synthesis = config.synthesis
    follows = {
        "batch": config.student.batch,
        "flip": config.teacher.flip,
        "shift": config.teacher.shift,
        "lr_meta": synthesis.lr_generator * synthesis.inner_steps,
        **getattr(methods.by_name(config.method.name), "derived", lambda _: {})(config),
    }
    synthesis.update({name: value for name, value in follows.items() if synthesis[name] is None})
    return config


def network(name: str, inputs: Inputs, axis: str | None = parallel.AXIS, compute: str = "float32") -> Network:
    """The classifier `name` for these inputs."""
    return shares.named(name, inputs, axis, compute)


def task(config: ConfigDict, classes: int) -> Task:
    """The task that the config names.

    Raises:
        ValueError: for an unknown name.
    """
    return tasks.from_config(settings.Reader(config), classes, config.student.temperature)


def student_steps(config: ConfigDict) -> int:
    """Distillation steps of the whole run."""
    return (config.schedule.rounds - config.schedule.warmup) * config.schedule.distill_steps


def job(
    config: ConfigDict,
    inputs: Inputs,
    teacher_network: Network,
    teacher_variables: Variables,
    axis: str | None = parallel.AXIS,
    images: np.ndarray | None = None,
    learner: Network | None = None,
) -> Job:
    """Everything that `loop.run` needs.

    Args:
        learner: the student, bound to `axis`; None makes the one that the config names.
        images: uint8 [M, H, W, D], what the yardstick 'given' distils on.

    Raises:
        InputError: a line for each way in which the config does not fit the devices, the images or the teacher.
    """
    config, faults = resolved(config), Faults()
    chosen, steps, schedule = choices(config, inputs.classes), student_steps(config), config.schedule
    learner = learner or shares.student(chosen.student.model, inputs, teacher_network, axis, config.compute)
    hint, method = hints.none(), None
    with faults:
        checks.check(config, inputs, teacher_network, teacher_variables, learner)
    with faults:
        hint = chosen.hint.make(teacher_network, learner, inputs.image_shape, axis)
    problem = methods.Problem(
        inputs=inputs._replace(image_shape=tuple(inputs.image_shape)),
        task=chosen.task,
        teacher=teacher_network,
        student=learner,
        has_batch_norm=teacher.has_batch_norm(teacher_variables),
        hint=hint,
        student_batch=chosen.student.batch,
        student_steps=steps,
        warmup=schedule.warmup,
        rounds=schedule.rounds,
        compute=config.compute,
        axis=axis,
        images=images,
    )
    with faults:
        method = methods.by_name(config.method.name).make(chosen.method, problem)
        method = beside.with_procedural(method, chosen.procedural, problem)
        jax.eval_shape(method.init, jax.random.key(0))
    faults.report()
    tx = chosen.student.descent(steps)
    student_task = chosen.task._replace(distillation_loss=method.distillation_loss)
    step = student.make_step(learner, student_task, hint, tx, axis)
    plan = loop.Plan(schedule.rounds, schedule.warmup, schedule.distill_steps, schedule.max_skipped)
    return Job(chosen.task, method, teacher_network, learner, tx, step, plan, chosen.start)
