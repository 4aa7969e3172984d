"""A network that was written in PyTorch, as a list of operators that jax runs; PyTorch itself is not needed for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssdkd_jax.errors import InputError
from ssdkd_jax.interop.torch_graph import arithmetic, layers, shapes, windows
from ssdkd_jax.models import observe
from ssdkd_jax.types import Array, Variables

OPERATORS: Mapping[str, Callable[..., Any]] = {
    **arithmetic.OPERATORS,
    **layers.OPERATORS,
    **shapes.OPERATORS,
    **windows.OPERATORS,
}
REMEDY = "write the network in flax, or use Teacher.from_function"


class Value(NamedTuple):
    """Stands for a value of the program: an input, a weight, a constant or what a step returned."""

    name: str


class Step(NamedTuple):
    """One operator of a program.

    Attributes:
        name: of the value that it returns.
        operator: its name in PyTorch, 'aten::conv2d'.
        function: what computes it in jax.
        args, kwargs: of the function, with a `Value` wherever a value is to be put.
        place: the module that calls it, 'features.3 (Conv2d)'.
        layer: the path in the variables of a layer whose input is reported; None of every other operator.
    """

    name: str
    operator: str
    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    place: str
    layer: str | None = None


class Program(NamedTuple):
    """A network as a list of operators.

    Attributes:
        steps: in the order in which they run.
        weights: the path in the variables, by the name of the value.
        constants: arrays by the name of the value.
        images: the name of the input.
        logits: what it returns.
        keys: the key in PyTorch's state dict of each of these paths; of a tensor under several names, all of them.
        rest: what else that state dict holds, by key.
    """

    steps: Sequence[Step]
    weights: Mapping[str, tuple[str, ...]]
    constants: Mapping[str, np.ndarray]
    images: str
    logits: Value
    keys: Mapping[tuple[str, ...], Sequence[str]]
    rest: Mapping[str, np.ndarray]


def run(program: Program, variables: Variables, images: Array) -> Array:
    """What the program returns; its layers report what they take in, see `observe.report`.

    Args and raises: as `values`.
    """
    return values(program, variables, images)[program.logits.name]


def state_dict(program: Program, variables: Variables) -> dict[str, np.ndarray]:
    """These variables as the state dict of the program's PyTorch module."""
    arrays = {key: np.array(_at(variables, path)) for path, keys in program.keys.items() for key in keys}
    return {**arrays, **program.rest}


def values(program: Program, variables: Variables, images: Array) -> dict[str, Any]:
    """All values of the program, by name; some are numbers, some lists of arrays.

    Args:
        images: as its PyTorch module takes them, normalised and channels first.

    Raises:
        InputError: for an operator that fails, with its place.
    """
    found = {program.images: images, **{name: jnp.asarray(x) for name, x in program.constants.items()}}
    found |= {name: _at(variables, path) for name, path in program.weights.items()}
    for step in program.steps:
        args, kwargs = replaced(step.args, found.__getitem__), replaced(step.kwargs, found.__getitem__)
        if step.layer is not None:
            _report(step.layer, **kwargs)
        try:
            with jax.named_scope(step.place):
                found[step.name] = step.function(*args, **kwargs)
        except Exception as error:
            raise InputError(
                f"The operator {step.operator} in {step.place} fails in jax ({line(error)}); {REMEDY}."
            ) from error
    return found


def called(function: Callable[..., Any], given: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments of a function of this package by those of an operator; None where it does not take them.

    Args:
        given: what the operator is called with.
        default: what its schema says of the others.
    """
    taken = inspect.signature(function).parameters
    if any(name not in taken and not _same(value, default.get(name)) for name, value in given.items()):
        return None
    arguments = {name: value for name, value in {**default, **given}.items() if name in taken}
    needed = {name for name, parameter in taken.items() if parameter.default is parameter.empty}
    return arguments if needed <= arguments.keys() else None


def live(steps: Sequence[Step], logits: Value) -> tuple[list[Step], set[str]]:
    """The steps on which a value depends, and the names of all values on which it does."""
    names, kept = {logits.name}, []
    for step in reversed(steps):
        if step.name in names:
            kept.append(step)
            replaced((step.args, step.kwargs), names.add)
    return kept[::-1], names


def replaced(tree: Any, of: Callable[[str], Any]) -> Any:
    """Lists, tuples and dicts with `of(name)` in place of every `Value`."""
    if isinstance(tree, Value):
        return of(tree.name)
    if isinstance(tree, dict):
        return {key: replaced(x, of) for key, x in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)([replaced(x, of) for x in tree])
    return tree


def line(error: Exception) -> str:
    """The start of what an error says, to stand within a sentence."""
    said = str(error).strip().partition("\n")[0].rstrip(".: ")
    return f"{said[:200]}..." if len(said) > 200 else said or type(error).__name__


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and value == default


def _at(variables: Any, path: Sequence[str]) -> Any:
    for name in path:
        variables = variables[name]
    return variables


def _report(
    layer: str, input: Array, running_mean: Array | None = None, running_var: Array | None = None, **_: Any
) -> None:
    if running_mean is None:
        observe.report(layer, input)
    else:
        observe.report(layer, input, [running_mean, running_var], axis=1)
