"""The linear layers of a graph: what each sees where it makes a pixel, and how its kernel lies in the variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ssdkd_jax.closed_form.graph import Graph, Node, Operation
from ssdkd_jax.models import harvest
from ssdkd_jax.types import Array

Leaves = dict[str, Array]
ARRANGED = ("reshape", "transpose", "convert_element_type", "broadcast_in_dim", "copy", "squeeze", "expand_dims")
LARGEST = 1 << 24  # elements of a kernel; float32 counts no further


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
        by_channel: whether each channel has a filter of its own, which sees that channel alone.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    lhs: tuple[int, ...]
    out: tuple[int, ...]
    rhs: tuple[int, ...]
    by_channel: bool = False

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
        """[kh kw c, d] as its kernel; [kh kw, d] of filters of single channels."""
        kernel = matrix.reshape(*self.kernel, -1, matrix.shape[1])
        return kernel.transpose(np.argsort([self.rhs[i] for i in (2, 3, 1, 0)]))

    def matrix(self, kernel: np.ndarray) -> np.ndarray:
        """Its kernel as [kh kw c, d]; [kh kw, d] of filters of single channels."""
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

    @property
    def by_channel(self) -> bool:
        """Whether each channel that it makes sees one of its input's alone, the one at its own place."""
        return isinstance(self.layout, Conv) and self.layout.by_channel

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


def taken(x: np.ndarray, places: Places) -> np.ndarray:
    """[R, c] of values with the channels last."""
    if x.ndim == 2:
        return x[places.image]
    return x[places.image, places.row, places.column]


def found_in(graph: Graph) -> dict[Node, Linear]:
    """The linear layers by what they make, in the order in which they run."""
    return {found.result: found for operation in graph.operations if (found := linear(graph, operation))}


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
    groups, outputs = p["feature_group_count"], operation.outputs[0].shape[spec.out_spec[1]]
    by_channel = groups == outputs == x.shape[spec.lhs_spec[1]] and groups > 1
    plain = p["batch_group_count"] == 1 and set(p["lhs_dilation"]) == {1} and (groups == 1 or by_channel)
    if not plain or len(x.shape) != 4 or kernel not in graph.weights or x in graph.weights:
        return None
    size = tuple(kernel.shape[axis] for axis in spec.rhs_spec[2:])
    lhs, rhs, out = (tuple(axes) for axes in (spec.lhs_spec, spec.rhs_spec, spec.out_spec))
    reads = (tuple(p[name]) for name in ("window_strides", "rhs_dilation", "padding"))
    return Conv(size, *reads, lhs, out, rhs, by_channel)


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
