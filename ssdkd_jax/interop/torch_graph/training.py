"""A program in training: where its weights begin, and BatchNorms that normalise by the batch.

The program was traced in eval mode, so a Dropout of its PyTorch module is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ssdkd_jax.engine import parallel
from ssdkd_jax.engine.trees import named_leaves
from ssdkd_jax.interop.torch_graph import program as programs
from ssdkd_jax.interop.torch_graph.program import Program, Step, Value
from ssdkd_jax.types import Array, Key, Variables

MOMENTUM = 0.9  # PyTorch's 0.1


def train(program: Program, variables: Variables, images: Array, axis: str | None) -> tuple[Array, Variables]:
    """What the program returns where its BatchNorms take the batch's statistics, and the variables with these in them.

    Args:
        images: as `program.run` takes them.
        axis: pmap axis over which the statistics are averaged.
    """
    running: dict[str, tuple[Array, Array]] = {}

    def by_batch(step: Step) -> Step:
        def normalised(**given: Any) -> Any:
            x = given["input"]
            over = (0, *range(2, x.ndim))
            mean, square = parallel.mean((x.mean(over), (x * x).mean(over)), axis)
            batch = mean, jnp.maximum(square - mean * mean, 0)
            before = running.get(step.layer, (given["running_mean"], given["running_var"]))
            running[step.layer] = tuple(
                MOMENTUM * a + (1 - MOMENTUM) * jax.lax.stop_gradient(b) for a, b in zip(before, batch, strict=True)
            )
            return step.function(**{**given, "running_mean": batch[0], "running_var": batch[1]})

        return step._replace(function=normalised) if step.layer is not None and "running_mean" in step.kwargs else step

    logits = programs.run(program._replace(steps=[by_batch(step) for step in program.steps]), variables, images)
    leaves = flatten_dict(dict(variables))
    for layer, statistics in running.items():
        for kind, value in zip(("mean", "var"), statistics, strict=True):
            leaves["batch_stats", *filter(None, layer.split("/")), kind] = value
    return logits, {"params": {}, **unflatten_dict(leaves)}


def initial(program: Program, kept: Variables, key: Key) -> Variables:
    """First variables of a program: drawn weights of its layers, BatchNorms that do nothing, no biases.

    A weight of a layer is normal with variance 1 / fan-in. What is no layer's, such as an embedding of positions, is as
    in `kept`.
    """
    paths = {program.weights[name]: role for name, role in _roles(program).items()}
    made = []
    for number, (path, array) in enumerate(named_leaves(kept).items()):
        draw = paths.get(tuple(path.split(".")))
        made.append(jnp.asarray(array) if draw is None else draw(jax.random.fold_in(key, number), array.shape))
    return jax.tree.unflatten(jax.tree.structure(kept), made)


def _roles(program: Program) -> dict[str, Callable[..., Array]]:
    """How the weights of layers begin, by the name of the value: (key, shape) -> array."""
    found: dict[str, Callable[..., Array]] = {}
    for step in program.steps:
        if any(kind in step.operator for kind in LAYERS):
            for field, draw in ROLES.items():
                if isinstance(value := step.kwargs.get(field), Value) and value.name in program.weights:
                    found[value.name] = draw
    return found


def _drawn(key: jax.Array, shape: Sequence[int]) -> Array:
    if len(shape) < 2:  # of a norm
        return jnp.ones(shape)
    return jax.random.normal(key, shape) / np.sqrt(np.prod(shape[1:]))


def _filled(value: float) -> Callable[..., Array]:
    return lambda key, shape: jnp.full(shape, value, "float32")


LAYERS = ("aten::conv", "aten::linear", "norm")
ROLES: dict[str, Callable[..., Array]] = {
    "weight": _drawn,
    "bias": _filled(0),
    "running_mean": _filled(0),
    "running_var": _filled(1),
}
