"""A network as the operations that make its logits from images, whatever it was written in.

Its function is traced, and what is called within it (jit, remat, a function with a gradient of its own) is written out
flat. Of `lax.platform_dependent` the default branch is taken. A value either depends on the images, or follows from the
weights alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from ssdkd_jax.engine.convolution import convolve
from ssdkd_jax.engine.trees import named_leaves
from ssdkd_jax.models import harvest
from ssdkd_jax.types import Array, Variables

CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # the parameter that holds what is called
CALLED = ("jit", "pjit", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "closed_call", "checkpoint")


class Node(NamedTuple):
    """A value of the network: its number, in the order in which values are made, and its shape."""

    number: int
    shape: tuple[int, ...]


class Operation(NamedTuple):
    """One equation of a traced function.

    Attributes:
        equation: what is computed.
        inputs: nodes, or numbers that stand in the program.
        outputs: what it makes.
        place: the names of the scopes that it stands in, as jax.named_scope gives them.
    """

    equation: JaxprEqn
    inputs: tuple[Any, ...]
    outputs: tuple[Node, ...]
    place: str = ""

    @property
    def name(self) -> str:
        """Of its primitive, as 'conv_general_dilated'."""
        return self.equation.primitive.name

    @property
    def nodes(self) -> list[Node]:
        """Its inputs without the numbers."""
        return [x for x in self.inputs if isinstance(x, Node)]


class Graph(NamedTuple):
    """A network.

    Attributes:
        operations: from the images to the logits, in the order in which they run; none that the logits do without.
        weights: how a value is made that depends on no image: an operation, an array, or the path of a variable.
        images, logits: the first and the last value.
        users: the indices of the operations that take in a value which depends on the images, in order.
    """

    operations: tuple[Operation, ...]
    weights: Mapping[Node, Operation | Array | str]
    images: Node
    logits: Node
    users: Mapping[Node, Sequence[int]]

    def weight(self, leaves: Mapping[str, Array], node: Any) -> Array:
        """The value of a node that depends on no image; a number stands for itself."""
        if not isinstance(node, Node):
            return node
        made = self.weights[node]
        if isinstance(made, str):
            return leaves[made]
        if not isinstance(made, Operation):
            return made
        return harvest.run(made.equation, [self.weight(leaves, x) for x in made.inputs])[made.outputs.index(node)]

    def on_images(self, operation: Operation) -> list[Node]:
        """The inputs of an operation that depend on the images."""
        return [x for x in operation.nodes if x not in self.weights]

    def run(self, operation: Operation, leaves: Mapping[str, Array], values: Mapping[Node, Array]) -> None:
        """Compute an operation; what it makes is put into `values`."""
        inputs = [
            values[x] if isinstance(x, Node) and x in values else self.weight(leaves, x) for x in operation.inputs
        ]
        convolution = operation.name == "conv_general_dilated"
        made = [convolve(*inputs, **_given(operation))] if convolution else harvest.run(operation.equation, inputs)
        values.update(zip(operation.outputs, made, strict=True))

    def forget(self, values: dict[Node, Array], index: int, needed: Mapping[Node, int] = MappingProxyType({})) -> None:
        """Drop the values that no operation beyond `index` takes in.

        Args:
            needed: values that are kept longer, and until which operation.
        """
        for node in [x for x in values if max(self.users.get(x, (0,))[-1], needed.get(x, 0)) <= index]:
            del values[node]


def _given(operation: Operation) -> dict[str, Any]:
    """What an operation is told beside its inputs."""
    return {name: value for name, value in operation.equation.params.items() if value is not None}


def trace(apply: Callable[[Variables, Array], Array], variables: Variables, shape: tuple[int, ...]) -> Graph:
    """The graph of a function (variables, images) -> logits, for images [B, H, W, D] of this shape."""
    closed = jax.make_jaxpr(apply)(variables, jax.ShapeDtypeStruct(shape, "float32"))
    writer = Writer()
    paths = (*named_leaves(variables), "")
    inputs = [writer.node(x.aval.shape) for x in closed.jaxpr.invars]
    (logits,) = writer.written(closed.jaxpr, closed.consts, inputs)
    images, weights = inputs[-1], dict[Node, Any](zip(inputs[:-1], paths, strict=False))
    weights.update(writer.constants)
    operations = []
    for operation in writer.operations:
        if any(x not in weights for x in operation.nodes):
            operations.append(operation)
        else:
            weights.update(dict.fromkeys(operation.outputs, operation))
    needed, users = _needed(operations, logits), dict[Node, list[int]]()
    for index, operation in enumerate(needed):
        for node in operation.nodes:
            if node not in weights:
                users.setdefault(node, []).append(index)
    return Graph(tuple(needed), weights, images, logits, users)


def _needed(operations: Sequence[Operation], logits: Node) -> list[Operation]:
    needed, kept = {logits}, []
    for operation in reversed(operations):
        if needed.intersection(operation.outputs):
            needed.update(operation.nodes)
            kept.append(operation)
    return kept[::-1]


class Writer:
    """Writes the equations of a traced function out flat.

    Attributes:
        operations: those written so far.
        constants: arrays that the function closes over.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.constants: dict[Node, Array] = {}
        self._count = 0

    def node(self, shape: Sequence[int]) -> Node:
        """A new value."""
        self._count += 1
        return Node(self._count, tuple(shape))

    def written(self, jaxpr: Jaxpr, consts: Sequence[Array], inputs: Sequence[Any], place: str = "") -> list[Any]:
        """Write the equations of `jaxpr`, which stands in a place, for these inputs; its outputs."""
        constants = [self.node(x.aval.shape) for x in jaxpr.constvars]
        self.constants.update(zip(constants, consts, strict=True))
        found = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs), strict=True))

        def value(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else found[atom]

        for eqn in jaxpr.eqns:
            arguments, called = [value(x) for x in eqn.invars], next(_called(eqn), None)
            here = "/".join(filter(None, (place, str(eqn.source_info.name_stack))))
            if called is not None:
                taken = arguments[-len(called.jaxpr.invars) :] if called.jaxpr.invars else []
                outputs = self.written(called.jaxpr, called.consts, taken, here)
            else:
                outputs = [self.node(x.aval.shape) for x in eqn.outvars]
                self.operations.append(Operation(eqn, tuple(arguments), tuple(outputs), here))
            found.update(zip(eqn.outvars, outputs, strict=True))
        return [value(x) for x in jaxpr.outvars]


def _called(eqn: JaxprEqn) -> Iterator[ClosedJaxpr]:
    if platforms := eqn.params.get("branches_platforms"):  # of lax.platform_dependent, behind the branch's number
        yield eqn.params["branches"][platforms.index(None) if None in platforms else -1]
    if eqn.primitive.name in CALLED:
        for name in CALLS:
            if isinstance(body := eqn.params.get(name), ClosedJaxpr):
                yield body
            elif isinstance(body, Jaxpr):
                yield ClosedJaxpr(body, ())
