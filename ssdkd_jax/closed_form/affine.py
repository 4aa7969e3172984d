"""The numbers of a graph by which a channel is scaled and moved: those of BatchNorm, and biases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ssdkd_jax.closed_form.graph import Graph, Node, Operation
from ssdkd_jax.closed_form.linear import Leaves
from ssdkd_jax.types import Array

STATISTICS = "batch_stats"


class Affine(NamedTuple):
    """Operations in a row that scale and move each channel by numbers of the weights, as BatchNorm and a bias do.

    Attributes:
        source, result: before the first and after the last.
        operations: each with its number for a channel, and whether the map stands on its left.
        axis: of the channels.
        mean, var, scale, bias: paths of the variables that it has of each, in their order.
    """

    source: Node
    result: Node
    operations: tuple[Operation, ...]
    axis: int
    mean: tuple[str, ...]
    var: tuple[str, ...]
    scale: tuple[str, ...]
    bias: tuple[str, ...]

    def coefficients(self, graph: Graph, leaves: Mapping[str, Array]) -> tuple[np.ndarray, np.ndarray]:
        """(a, b), [d] each, such that it makes a x + b of x."""
        size = self.source.shape[self.axis]
        a, b = np.ones(size), np.zeros(size)
        for operation in self.operations:
            left, w = _other(graph, operation)
            w = np.broadcast_to(np.asarray(_vector(graph, leaves, w), np.float64).ravel(), size)
            if operation.name == "mul":
                a, b = a * w, b * w
            elif operation.name == "div":
                a, b = a / w, b / w
            elif operation.name == "add":
                b = b + w
            else:
                a, b = (a, b - w) if left else (-a, w - b)
        return a, b

    def set(
        self, graph: Graph, leaves: Leaves, a: np.ndarray, b: np.ndarray, mean: np.ndarray, var: np.ndarray
    ) -> None:
        """Give it these statistics where it has any, and let it make a x + b of x as far as its variables allow."""

        def put(paths: tuple[str, ...], values: Any) -> None:
            for path in paths:
                leaves[path] = jnp.asarray(np.broadcast_to(values, leaves[path].size), "float32").reshape(
                    leaves[path].shape
                )

        for paths, values in ((self.mean, mean), (self.var, var), (self.scale, 1.0), (self.bias, 0.0)):
            put(paths, values)
        put(self.scale[:1], a / self.coefficients(graph, leaves)[0])
        put(self.bias[-1:], b - self.coefficients(graph, leaves)[1])


def found_in(graph: Graph) -> Iterator[Affine]:
    """All of them in the order in which they run, each as long as nobody else takes in what stands within it."""
    inside: set[Node] = set()
    for operation in graph.operations:
        if operation.outputs[0] in inside or not _scales(graph, operation):
            continue
        row = [operation]
        while len(graph.users.get(row[-1].outputs[0], ())) == 1:
            after = graph.operations[graph.users[row[-1].outputs[0]][0]]
            if not _scales(graph, after):
                break
            row.append(after)
            inside.add(after.outputs[0])
        if found := _affine(graph, row):
            yield found


def _affine(graph: Graph, row: list[Operation]) -> Affine | None:
    axes, roles = set(), {"mean": [], "var": [], "scale": [], "bias": []}
    for operation in row:
        _, w = _other(graph, operation)
        shape = _vector_shape(graph, w)
        axes.update(axis for axis, size in enumerate(shape) if size > 1)
        for path in _leaves(graph, w):
            if path.startswith(f"{STATISTICS}."):
                role = "var" if operation.name in ("mul", "div") else "mean"
            else:
                role = "scale" if operation.name in ("mul", "div") else "bias"
            roles[role].append(path)
    (source,) = graph.on_images(row[0])
    if len(axes) > 1 or not any(roles.values()):
        return None
    axis = axes.pop() if axes else len(source.shape) - 1
    return Affine(source, row[-1].outputs[0], tuple(row), axis, *(tuple(paths) for paths in roles.values()))


def _scales(graph: Graph, operation: Operation) -> bool:
    """Whether an operation scales or moves each channel by a number of its own."""
    if operation.name not in ("add", "sub", "mul", "div") or len(graph.on_images(operation)) != 1:
        return False
    left, w = _other(graph, operation)
    return sum(size > 1 for size in _vector_shape(graph, w)) <= 1 and (left or operation.name != "div")


def _other(graph: Graph, operation: Operation) -> tuple[bool, Any]:
    """Of two operands: whether the one that depends on the images is the first, and the other."""
    first, second = operation.inputs
    left = isinstance(first, Node) and first not in graph.weights
    return left, second if left else first


def _vector_shape(graph: Graph, w: Any) -> tuple[int, ...]:
    """The shape of an operand as it was before it was repeated over pixels."""
    if not isinstance(w, Node):
        return ()
    if made := _repeated(graph, w):
        shape = [1] * len(w.shape)
        for axis, size in zip(made.equation.params["broadcast_dimensions"], made.inputs[0].shape, strict=True):
            shape[axis] = size
        return tuple(shape)
    return w.shape


def _vector(graph: Graph, leaves: Mapping[str, Array], w: Any) -> Array:
    made = _repeated(graph, w) if isinstance(w, Node) else None
    return graph.weight(leaves, made.inputs[0] if made else w)


def _repeated(graph: Graph, w: Node) -> Operation | None:
    made = graph.weights[w]
    repeated = isinstance(made, Operation) and made.name == "broadcast_in_dim" and isinstance(made.inputs[0], Node)
    return made if repeated else None


def _leaves(graph: Graph, w: Any) -> Iterator[str]:
    """The variables that a value is made of."""
    if isinstance(w, Node):
        made = graph.weights[w]
        if isinstance(made, str):
            yield made
        elif isinstance(made, Operation):
            for x in made.nodes:
                yield from _leaves(graph, x)
