"""The student, where it is a flax module of the caller's own."""

from __future__ import annotations

import flax.linen as nn
import jax
from flax import nnx

from ssdkd_jax import models
from ssdkd_jax.api.teachers import name_of
from ssdkd_jax.engine import parallel
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import nnx_module
from ssdkd_jax.models import conformance
from ssdkd_jax.run import identity, pipeline
from ssdkd_jax.types import Inputs, Network


def bound(
    student: nn.Module | nnx.Module, inputs: Inputs, compute: str = "float32", axis: str | None = parallel.AXIS
) -> Network:
    """A student that was handed over, as functions of its variables.

    Raises:
        InputError: for what is no flax module.
    """
    if isinstance(student, nn.Module):
        return models.bind(student, inputs.image_shape, inputs.mean, inputs.std, axis, compute)
    if isinstance(student, nnx.Module):
        return nnx_module.network(student, inputs.image_shape, inputs.mean, inputs.std, axis, compute)[0]
    raise InputError(
        f"The student is a {type(student).__name__}; give a name of the zoo, such as 'wrn10_1', or a flax module."
    )


def handed_over(student: nn.Module | nnx.Module, inputs: Inputs, compute: str) -> pipeline.Learner:
    """A student that is a flax module, looked at first.

    Raises:
        InputError: a line for each reason for which it cannot learn.
    """
    network, name = bound(student, inputs, compute), name_of(student)
    if faults := conformance.check(network, inputs.image_shape, name):
        raise InputError("\n".join(faults))
    return pipeline.Learner(name, network, digest(student, network, inputs))


def digest(student: nn.Module | nnx.Module, network: Network, inputs: Inputs) -> str:
    """What tells a student from others: what it computes in training; of an NNX module, also its weights."""
    variables = jax.eval_shape(network.init, jax.random.key(0))
    one_device = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), variables)
    images = jax.ShapeDtypeStruct((1, 2, *inputs.image_shape), "float32")
    seeds = jax.ShapeDtypeStruct((1,), "uint32")
    found = identity.program(lambda v, x, s: network.train(v, x, jax.random.key(s)), one_device, images, seeds)
    return found if isinstance(student, nn.Module) else found + identity.digest(network.init(jax.random.key(0)))
