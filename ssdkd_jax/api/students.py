"""The student: a name, a share of its teacher's channels, or a flax module of the caller's own."""

from __future__ import annotations

import flax.linen as nn
import jax
from flax import nnx

from ssdkd_jax import models
from ssdkd_jax.api.teachers import name_of
from ssdkd_jax.engine import parallel
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import nnx_module
from ssdkd_jax.interop.saved import Classifier
from ssdkd_jax.models import conformance, shares
from ssdkd_jax.run import identity, pipeline
from ssdkd_jax.types import Inputs, Network

Student = str | float | nn.Module | nnx.Module


def bound(student: Student, teacher: Classifier, compute: str = "float32", axis: str | None = parallel.AXIS) -> Network:
    """A student as functions of its variables.

    Raises:
        InputError: for what is no student; or as `shares.student`.
    """
    inputs = teacher.inputs
    if isinstance(student, str | float | int):
        return shares.student(str(student), inputs, teacher.network, axis, compute)
    if isinstance(student, nn.Module):
        return models.bind(student, inputs.image_shape, inputs.mean, inputs.std, axis, compute)
    if isinstance(student, nnx.Module):
        return nnx_module.network(student, inputs.image_shape, inputs.mean, inputs.std, axis, compute)[0]
    raise InputError(
        f"The student is a {type(student).__name__}; give a name of the zoo, such as 'wrn10_1', a share of its "
        "teacher's channels, such as 0.5, or a flax module."
    )


def handed_over(student: Student, teacher: Classifier, compute: str) -> pipeline.Learner | None:
    """A student that is not of the zoo, looked at first: a flax module, or a share of a teacher that is not.

    Raises:
        InputError: a line for each reason for which it cannot learn.
    """
    inputs = teacher.inputs
    if isinstance(student, nn.Module | nnx.Module):
        network, name = bound(student, teacher, compute), name_of(student)
        told = digest(student, network, inputs)
    elif shares.share_of(student) is None or models.of_zoo(shares.base(teacher.name)):
        return None
    else:  # the teacher's digest and the share tell it from others
        network, name, told = bound(student, teacher, compute), shares.student_name(str(student), teacher.name), ""
    if faults := conformance.check(network, inputs.image_shape, name):
        raise InputError("\n".join(faults))
    return pipeline.Learner(name, network, told)


def digest(student: nn.Module | nnx.Module, network: Network, inputs: Inputs) -> str:
    """What tells a student from others: what it computes in training; of an NNX module, also its weights."""
    variables = jax.eval_shape(network.init, jax.random.key(0))
    one_device = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), variables)
    images = jax.ShapeDtypeStruct((1, 2, *inputs.image_shape), "float32")
    seeds = jax.ShapeDtypeStruct((1,), "uint32")
    found = identity.program(lambda v, x, s: network.train(v, x, jax.random.key(s)), one_device, images, seeds)
    return found if isinstance(student, nn.Module) else found + identity.digest(network.init(jax.random.key(0)))
