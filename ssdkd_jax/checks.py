"""Whether settings, devices, images, teacher and student fit together; asked before anything is compiled."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import jax

from ssdkd_jax import models, settings
from ssdkd_jax.engine import parallel
from ssdkd_jax.errors import Faults, InputError
from ssdkd_jax.models import shares
from ssdkd_jax.types import Inputs, Network, Variables

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def disagreements(config: ConfigDict, read_fields: Collection[str]) -> list[str]:
    """Sentences about the fields of a resolved config that do not fit the devices, the zoo or the method."""
    faults, values = Faults(), settings.flat(config)
    trained = () if config.teacher.checkpoint or config.teacher.model == models.OWN else ("teacher.batch",)
    for name in ("student.batch", "student.procedural", "synthesis.batch", *trained):
        if name in read_fields and values[name]:
            with faults:
                parallel.check_batch(name, values[name])
    for name in ("teacher.model", "student.model"):
        with faults:
            whole = name == "student.model" and shares.share_of(values[name]) is not None
            if values[name] != models.OWN and not whole:
                models.by_name(shares.base(values[name]), 2)
    underived = (name for name in sorted(read_fields - {"synthesis.bn"}) if values[name] is None)
    faults.extend(
        f"{name} = None is derived by some methods, and '{config.method.name}' is none of them; give it a value."
        for name in underived
    )
    return faults.sentences


def check(
    config: ConfigDict, inputs: Inputs, teacher_network: Network, teacher_variables: Variables, learner: Network
) -> None:
    """Raise InputError, a line for each way in which the pieces do not fit together."""
    faults, answered = Faults(), inputs.classes
    images = jax.ShapeDtypeStruct((1, *inputs.image_shape), "float32")
    with faults:
        answered = check_answer(config, config.teacher.model, teacher_network, images, teacher_variables)
    if answered != inputs.classes:
        faults.extend(
            [
                f"The teacher answers {answered} classes but the student and the data have {inputs.classes}; "
                "use a teacher of the same classes."
            ]
        )
    with faults:
        learnt = check_answer(config, config.student.model, learner, images)
        if learnt != inputs.classes:
            raise InputError(
                f"The student '{config.student.model}' answers {learnt} classes but the teacher {inputs.classes}; use "
                "a student of the same classes."
            )
    faults.report()


def check_answer(
    config: ConfigDict, name: str, model: Network, images: jax.ShapeDtypeStruct, variables: Variables | None = None
) -> int:
    """The classes that the model `name` answers; ValueError where not per image, or per pixel, as the task asks."""
    variables = variables or jax.eval_shape(model.init, jax.random.key(0))
    shape = jax.eval_shape(model.apply, variables, images).shape
    wanted = images.shape[:3] if config.task.name == "segmentation" else images.shape[:1]
    if shape[:-1] != wanted:
        raise InputError(
            f"task.name = '{config.task.name}' takes logits of shape {[*wanted, 'C']}, but the model '{name}' answers "
            f"{list(shape)}; choose another model or task."
        )
    return shape[-1]
