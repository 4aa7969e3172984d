"""Networks that are a share of another: 'resnet18@0.5' has half the channels of 'resnet18', '0.5' of its teacher's."""

from __future__ import annotations

import flax.linen as nn

from ssdkd_jax import models
from ssdkd_jax.engine import parallel
from ssdkd_jax.errors import InputError
from ssdkd_jax.types import Inputs, Network

AT = "@"


def share_of(student: object) -> float | None:
    """The share of its teacher's channels that a student is named by, as 0.5 or '0.5'; None of any other student.

    Raises:
        InputError: for a number that is not between 0 and 1.

    >>> share_of("0.5"), share_of("wrn10_1")
    (0.5, None)
    """
    if not isinstance(student, str | float | int):
        return None
    try:
        share = float(student)
    except ValueError:
        return None
    if not 0 < share < 1:
        raise InputError(
            f"The student {student} is no share of its teacher's channels; give a number between 0 and 1, such as 0.5."
        )
    return share


def base(name: str) -> str:
    """The name before a share, as 'resnet18' of 'resnet18@0.5'."""
    return name.partition(AT)[0]


def student_name(student: str, teacher: str) -> str:
    """That of a student; a share of its teacher's channels, '0.5', is named after it, 'resnet18@0.5'."""
    return student if share_of(student) is None else f"{teacher}{AT}{student}"


def named(
    name: str, inputs: Inputs, axis: str | None = None, compute: str = "float32", module: nn.Module | None = None
) -> Network:
    """The network of a name, bound to functions: of `models.by_name`, or a share of one, 'resnet18@0.5'.

    Args:
        axis, compute: as of `models.bind`.
        module: what the name before the share stands for; None finds it by that name.

    Raises:
        ValueError: as `models.by_name` and `narrower`.
    """
    whole, at, share = name.rpartition(AT)
    if at:
        return narrower(named(whole, inputs, None, compute, module), share, axis, compute)
    found = models.by_name(name, inputs.classes) if module is None else module
    return models.bind(found, inputs.image_shape, inputs.mean, inputs.std, axis, compute)


def student(
    name: str, inputs: Inputs, teacher: Network, axis: str | None = parallel.AXIS, compute: str = "float32"
) -> Network:
    """The student of a name; or, where this is a share as '0.5', its teacher's network with so many channels.

    Raises:
        ValueError: as `named` and `narrower`.
    """
    if share_of(name) is None:
        return named(name, inputs, axis, compute)
    return narrower(teacher, name, axis, compute)


def narrower(network: Network, share: str, axis: str | None = None, compute: str = "float32") -> Network:
    """The same network with a share of its channels.

    Raises:
        InputError: for what is no share, or a network that cannot be made narrower.
    """
    part = share_of(share)
    if part is None:
        raise InputError(f"'{share}' is no share of a network's channels; write it as 'resnet18{AT}0.5'.")
    if network.narrower is None:
        raise InputError(
            f"The network is neither a linen nor a PyTorch module, so it cannot be had with {part:g} of its channels; "
            "name a student, such as 'wrn10_1', or pass a flax module."
        )
    return network.narrower(part, axis, compute)
