"""What the layers of a network take in: they are marked as they run, not changed.

Of a linen module, every layer is seen. One with running statistics is any that keeps `mean` and `var` in 'batch_stats',
of whatever class; its features are on the axes that its field `axis` names, on those along which its statistics extend,
or on the last. A network of another origin says itself what its layers take in, by `report`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from ssdkd_jax.errors import InputError
from ssdkd_jax.models import harvest
from ssdkd_jax.models.harvest import Found, Layer
from ssdkd_jax.types import Array, Variables

STATISTICS = ("mean", "var")
Read = Callable[[Layer, Array, Sequence[Array]], Any]
_marked: ContextVar[list[list[Array]] | None] = ContextVar("marked", default=None)


def layers(call: Callable[[], Any], read: Read) -> tuple[Any, Found]:
    """`call()`, and each Dense or layer with running statistics, beside what `read` makes of it; in order of execution.

    Args:
        call: runs linen modules, or networks that `report`, also within jit, remat, scan or vmap.
        read: (layer, its input [..., features], its running mean and variance [features], none of a Dense) -> arrays.

    Raises:
        InputError: for a layer whose statistics do not fit its input, or whose inner values cannot be read.
    """
    entered = []

    def watch(function: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        module, path = context.module, "/".join(context.module.path)
        statistics = running_statistics(module)
        if context.method_name != "__call__" or not (statistics or isinstance(module, nn.Dense)):
            return function(*args, **kwargs)
        inputs, depth = next(iter((*args, *kwargs.values()))), entered.count(path)
        entered.append(path)
        result = function(*args, **kwargs)
        entered.pop()
        report(path, inputs, statistics, getattr(module, "axis", None), depth)
        return result

    def watched() -> Any:
        before = _marked.set([])
        try:
            with nn.intercept_methods(watch):
                return call()
        finally:
            _marked.reset(before)

    def features_last(layer: Layer, values: Sequence[Array]) -> Any:
        inputs, *statistics = values
        last = jnp.moveaxis(inputs, layer.axes, range(-len(layer.axes), 0))
        rows = last.shape[: last.ndim - len(layer.axes)]
        return read(layer, last.reshape(*rows, -1), [x.reshape(-1) for x in statistics])

    return harvest.collect(watched, features_last)


def report(path: str, inputs: Array, statistics: Sequence[Array] = (), axis: Any = None, depth: int = 0) -> None:
    """Say what a layer takes in, to whoever watches; nothing happens where nobody does.

    Args:
        path: of the layer in the network's variables, as 'block1/norm'.
        inputs: [..., features], or with the features on `axis`.
        statistics: its running mean and variance [features]; () of a Dense.
        axis: of the features, one or several; None: those along which the statistics extend.
        depth: how many calls of the same layer it stands in.

    Raises:
        InputError: for statistics that do not fit the input.
    """
    if (marked := _marked.get()) is not None:
        axes = feature_axes(path, axis, inputs, statistics) if statistics else (-1,)
        marked.append(harvest.mark(Layer(path, bool(statistics), axes, depth), [inputs, *statistics]))


def norm_inputs(call: Callable[[], Any]) -> tuple[Any, list[Array]]:
    """`call()`, and the input [B, ..., features] of each layer with running statistics, in the order of execution."""
    result, found = layers(call, lambda layer, inputs, _: inputs)
    return result, [inputs for layer, inputs in found if layer.norm]


def norm_paths(variables: Variables) -> list[str]:
    """The layers with a running mean and variance, by variables alone; none of those that are not collections."""
    kept = variables.get("batch_stats") if isinstance(variables, Mapping) else None
    leaves = flatten_dict(kept) if isinstance(kept, Mapping) else {}
    named = [path for path in leaves if all(isinstance(name, str) for name in path)]
    return ["/".join(path[:-1]) for path in named if path[-1] == "mean" and (*path[:-1], "var") in leaves]


def running_statistics(module: nn.Module) -> list[Array]:
    """The running mean and variance that a module itself keeps; none where it keeps none."""
    kept = [module.get_variable("batch_stats", name) for name in STATISTICS]
    return kept if all(isinstance(x, jax.Array | np.ndarray) for x in kept) else []


def feature_axes(path: str, axis: Any, inputs: Array, statistics: Sequence[Array]) -> tuple[int, ...]:
    """The axes of an input along which a layer keeps statistics, counted from the end.

    Args:
        axis: what the layer says of it: an axis, several, or None.
    """
    shape, kept = inputs.shape, statistics[0].shape
    if axis is not None:
        places = sorted(a % inputs.ndim for a in (axis if isinstance(axis, Sequence) else (axis,)))
    elif len(kept) == inputs.ndim:
        places = [a for a, size in enumerate(kept) if size > 1] or [inputs.ndim - 1]
    else:
        places = range(inputs.ndim - len(kept), inputs.ndim)
    if [shape[a] for a in places] != ([n for n in kept if n > 1] if len(kept) == inputs.ndim else list(kept)):
        raise InputError(
            f"The BatchNorm '{path}' keeps statistics of shape {list(kept)}, which are not of the "
            f"{'last axes' if axis is None else f'axis {axis}'} of its input {list(shape)}; "
            "give it a field `axis` that names its features."
        )
    return tuple(a - inputs.ndim for a in places)


def instance_means(inputs: Sequence[Array]) -> Array:
    """The mean over the pixels of each layer's input, one beside the other: [B, F], F channels of all layers."""
    return jnp.concatenate([x.mean(tuple(range(1, x.ndim - 1))) for x in inputs], axis=-1)
