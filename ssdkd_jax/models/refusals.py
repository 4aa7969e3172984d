"""What flax and JAX refuse of a network, in one sentence with the remedy."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax.errors import FlaxError, InvalidRngError, ModifyScopeVariableError

from ssdkd_jax.errors import InputError

_REMEDIES = {
    InvalidRngError: "let it draw where `train` is true alone, as by deterministic=not train",
    ModifyScopeVariableError: "let it change its state where `train` is true alone, and in 'batch_stats'",
}


def named(call: Callable[[], Any], when: str) -> Any:
    """`call()`; what flax refuses or JAX cannot trace is an InputError.

    Args:
        call: runs a network.
        when: said of the call, as 'in eval mode'.

    Raises:
        InputError: which names the innermost layer, and has the original error as its cause.
    """
    trail: list[str] = []

    def follow(function: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception:
            trail.append("/".join(context.module.path))
            raise

    try:
        with nn.intercept_methods(follow):
            return call()
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError) as error:
        said = str(error).partition("\n")[0].rstrip(".:")
        raise InputError(
            f"{_where(trail)} cannot be traced by JAX {when} ({type(error).__name__}: {said}); compute with jax.numpy, "
            "without numpy, float() or a Python `if` on the values of an array."
        ) from error
    except (FlaxError, ValueError) as error:
        said = re.sub(r" \(https://flax\S*", "", str(error).partition("\n")[0]).rstrip(".")
        if not isinstance(error, FlaxError) and not said.startswith('Parameter "'):  # flax's, of a missing `train`
            raise
        remedy = _REMEDIES.get(type(error), "mend it, or let it depend on `train`")
        raise InputError(f"{_where(trail)} fails {when} ({said}); {remedy}.") from error


def _where(trail: Sequence[str]) -> str:
    return f"Its layer '{trail[0]}'" if trail and trail[0] else "It"
