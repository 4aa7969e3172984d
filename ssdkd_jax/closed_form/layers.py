"""What of a graph can be solved for: its linear layers, and the numbers by which a channel is scaled and moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ssdkd_jax.closed_form.graph import Graph, Node, Operation
from ssdkd_jax.models import harvest
from ssdkd_jax.types import Array

Leaves = dict[str, Array]
ARRANGED = ("reshape", "transpose", "convert_element_type", "broadcast_in_dim", "copy", "squeeze", "expand_dims")
LARGEST = 1 << 24  # elements of a kernel; float32 counts no further
STATISTICS = "batch_stats"


class Places(NamedTuple):
    """Pixels of a batch of maps, of which the rows of a least-squares problem are made.

    Attributes:
        image, row, column: [R] each; row and column are () for values without pixels.
    """

    image: np.ndarray
    row: np.ndarray | tuple = ()
    column: np.ndarray | tuple = ()

    def some(self, chosen: np.ndarray) -> Places:
        """Those at the indices `chosen`."""
        return Places(*(x[chosen] if len(x) else x for x in self))


class Conv(NamedTuple):
    """How a convolution reads its input; axes are those of batch, channels, height, width.

    Attributes:
        kernel: its height and width.
        strides, dilation, padding: of each.
        lhs, out: the axes of its input and output.
        rhs: those of its kernel: out, in, height, width.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    lhs: tuple[int, ...]
    out: tuple[int, ...]
    rhs: tuple[int, ...]

    def seen(self, inputs: Array, places: Places) -> np.ndarray:
        """What it sees where it makes the pixels `places`: [R, kh kw c]."""
        batch, channel, height, width = self.lhs
        x = np.pad(np.asarray(inputs).transpose(batch, height, width, channel), ((0, 0), *self.padding, (0, 0)))
        down, right = (np.arange(k) * d for k, d in zip(self.kernel, self.dilation, strict=True))
        rows, columns = places.row * self.strides[0], places.column * self.strides[1]
        windows = x[
            places.image[:, None, None], (rows[:, None] + down)[:, :, None], (columns[:, None] + right)[:, None]
        ]
        return windows.reshape(len(windows), -1)

    def last(self, outputs: Array) -> Array:
        """Its output with the channels last."""
        batch, channel, height, width = self.out
        return outputs.transpose(batch, height, width, channel)

    def arranged(self, matrix: np.ndarray) -> np.ndarray:
        """[kh kw c, d] as its kernel."""
        kernel = matrix.reshape(*self.kernel, -1, matrix.shape[1])
        return kernel.transpose(np.argsort([self.rhs[i] for i in (2, 3, 1, 0)]))

    def matrix(self, kernel: np.ndarray) -> np.ndarray:
        """Its kernel as [kh kw c, d]."""
        out, inner, height, width = self.rhs
        return kernel.transpose(height, width, inner, out).reshape(-1, kernel.shape[out])

    def axis(self) -> int:
        """Of the channels in its output."""
        return self.out[1]


class Dense(NamedTuple):
    """How a matrix reads its input.

    Attributes:
        contracted: the axis of the input that it sums over.
        rows_first: whether its kernel is [inputs, outputs].
        rank: of its input.
    """

    contracted: int
    rows_first: bool
    rank: int

    def seen(self, inputs: Array, places: Places) -> np.ndarray:
        """What it sees at `places`: [R, c]."""
        x = np.moveaxis(np.asarray(inputs), self.contracted, -1)
        return taken(x, places)

    def last(self, outputs: Array) -> Array:
        """Its output with the channels last, where they are."""
        return outputs

    def arranged(self, matrix: np.ndarray) -> np.ndarray:
        """[c, d] as its kernel."""
        return matrix if self.rows_first else matrix.T

    def matrix(self, kernel: np.ndarray) -> np.ndarray:
        """Its kernel as [c, d]."""
        return kernel if self.rows_first else kernel.T

    def axis(self) -> int:
        """Of the channels in its output."""
        return self.rank - 1


class Linear(NamedTuple):
    """A linear layer.

    Attributes:
        source, result: what it takes in, and what it makes, without a bias.
        leaf: the path of its kernel in the variables.
        order: where in that leaf each number of its kernel stands.
        layout: how it reads.
    """

    source: Node
    result: Node
    leaf: str
    order: np.ndarray
    layout: Conv | Dense

    def matrix(self, leaves: Mapping[str, Array]) -> np.ndarray:
        """Its kernel as [inputs, outputs]."""
        flat = np.asarray(leaves[self.leaf]).ravel()
        return self.layout.matrix(flat[self.order])

    def set(self, leaves: Leaves, matrix: np.ndarray) -> None:
        """Give it this kernel [inputs, outputs]."""
        kernel, leaf = self.layout.arranged(matrix), leaves[self.leaf]
        flat = np.empty(leaf.size, np.float32)
        flat[self.order.ravel()] = kernel.ravel()
        leaves[self.leaf] = jnp.asarray(flat.reshape(leaf.shape), leaf.dtype)


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


def taken(x: np.ndarray, places: Places) -> np.ndarray:
    """[R, c] of values with the channels last."""
    if x.ndim == 2:
        return x[places.image]
    return x[places.image, places.row, places.column]


def linear(graph: Graph, operation: Operation) -> Linear | None:
    """The linear layer that an operation is; None where it is none, or one whose kernel is no variable as it stands."""
    reads = {"conv_general_dilated": _conv, "dot_general": _dense}.get(operation.name)
    layout = reads and reads(graph, operation)
    if not layout:
        return None
    (source,) = graph.on_images(operation)
    (kernel,) = (x for x in operation.inputs if x is not source)
    found = _arranged(graph, kernel)
    return found and Linear(source, operation.outputs[0], *found, layout)


def _conv(graph: Graph, operation: Operation) -> Conv | None:
    p, (x, kernel) = operation.equation.params, operation.inputs
    spec = p["dimension_numbers"]
    plain = p["feature_group_count"] == p["batch_group_count"] == 1 and set(p["lhs_dilation"]) == {1}
    if not plain or len(x.shape) != 4 or kernel not in graph.weights or x in graph.weights:
        return None
    size = tuple(kernel.shape[axis] for axis in spec.rhs_spec[2:])
    lhs, rhs, out = (tuple(axes) for axes in (spec.lhs_spec, spec.rhs_spec, spec.out_spec))
    return Conv(size, tuple(p["window_strides"]), tuple(p["rhs_dilation"]), tuple(p["padding"]), lhs, out, rhs)


def _dense(graph: Graph, operation: Operation) -> Dense | None:
    ((left, right), batch), (x, kernel) = operation.equation.params["dimension_numbers"], operation.inputs
    plain = len(left) == len(right) == 1 and not any(batch) and len(kernel.shape) == 2
    if not plain or kernel not in graph.weights or x in graph.weights or len(x.shape) not in (2, 4):
        return None
    return Dense(left[0], right[0] == 0, len(x.shape))


def _arranged(graph: Graph, node: Node) -> tuple[str, np.ndarray] | None:
    """The variable of which a value is a new arrangement, and where each of its numbers stands there."""
    made = graph.weights[node]
    if isinstance(made, str):
        size = int(np.prod(node.shape))
        return (made, np.arange(size).reshape(node.shape)) if size < LARGEST else None
    same_size = isinstance(made, Operation) and made.name in ARRANGED and len(made.nodes) == 1
    if not same_size or np.prod(made.nodes[0].shape) != np.prod(node.shape):
        return None
    found = _arranged(graph, made.nodes[0])
    if found is None:
        return None
    leaf, order = found
    return leaf, np.asarray(harvest.run(made.equation, [jnp.asarray(order, "float32")])[0], np.int64)


def affines(graph: Graph, users: Mapping[Node, list[int]]) -> Iterator[Affine]:
    """All of them, each as long as nobody else takes in what stands within it."""
    inside: set[Node] = set()
    for operation in graph.operations:
        if operation.outputs[0] in inside or not _scales(graph, operation):
            continue
        row = [operation]
        while len(users.get(row[-1].outputs[0], ())) == 1:
            after = graph.operations[users[row[-1].outputs[0]][0]]
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
