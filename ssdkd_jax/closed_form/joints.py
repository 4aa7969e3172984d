"""Where the maps of a network come together: what one linear layer makes, or a sum of several.

A joint is what can be asked to be like a map of the teacher. It is on the trunk where every path from the images to the
logits passes it, as a group's output in a residual network; the others stand inside a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ssdkd_jax.closed_form.graph import Graph, Node, Operation
from ssdkd_jax.closed_form.layers import Affine, Conv, Dense, Linear, affines, linear

Resolution = tuple[int, ...]
ACTIVATIONS = ("max", "min", "logistic", "tanh", "erf", "clamp")


class Tail(NamedTuple):
    """A linear layer whose output nothing but a sum takes in, and what scales and moves it on the way there."""

    layer: Linear
    norm: Affine | None


class Joint(NamedTuple):
    """A map that linear layers make.

    Attributes:
        value: the map.
        index: of the operation that makes it.
        tails: the layers whose sum it is.
        others: what else is added.
        norm: what first scales and moves it afterwards.
        active: the map behind the activation that follows.
        trunk: whether all paths to the logits pass it.
    """

    value: Node
    index: int
    tails: tuple[Tail, ...]
    others: tuple[Node, ...]
    norm: Affine | None
    active: Node
    trunk: bool

    @property
    def layout(self) -> Conv | Dense:
        """How the map lies."""
        return self.tails[0].layer.layout

    @property
    def channels(self) -> int:
        """d of the map."""
        return self.value.shape[self.layout.axis()]

    @property
    def resolution(self) -> Resolution:
        """(height, width); () of values without pixels."""
        axis = self.layout.axis()
        return tuple(size for place, size in enumerate(self.value.shape) if place not in (0, axis))


def found_in(graph: Graph) -> list[Joint]:
    """All of them, in the order in which they are made."""
    users = users_of(graph)
    layers = {found.result: found for x in graph.operations if (found := linear(graph, x))}
    norms: dict[Node, Affine] = {}
    for found in affines(graph, users):
        norms.setdefault(found.source, found)
    whole = [_joint(graph, users, layers, norms, index) for index in range(len(graph.operations))]
    return [joint for joint in whole if joint]


def streams(found: Sequence[Joint]) -> dict[Node, Node]:
    """The first map of the sum that each map goes on, itself where it goes on none."""
    begun: dict[Node, Node] = {}
    actives = {joint.active: joint.value for joint in found}
    for joint in sorted(found, key=lambda joint: joint.index):
        before = [begun.get(actives.get(node, node)) for node in joint.others]
        begun[joint.value] = next((x for x in before if x), joint.value)
    return begun


def users_of(graph: Graph) -> dict[Node, list[int]]:
    """The indices of the operations that take in a value."""
    users: dict[Node, list[int]] = {}
    for index, operation in enumerate(graph.operations):
        for node in graph.on_images(operation):
            users.setdefault(node, []).append(index)
    return users


def _joint(
    graph: Graph,
    users: Mapping[Node, list[int]],
    layers: Mapping[Node, Linear],
    norms: Mapping[Node, Affine],
    index: int,
) -> Joint | None:
    operation = graph.operations[index]
    value = operation.outputs[0]
    if value in layers:
        if _summed(graph, users, _after(users, norms, value)):
            return None
        tails, others = (Tail(layers[value], None),), ()
    elif _adds(graph, operation) and not _summed(graph, users, value):
        made = {x.result: Tail(layers[x.source], x) for x in norms.values() if x.source in layers}
        made |= {node: Tail(layer, None) for node, layer in layers.items()}
        operands = list(_operands(graph, users, operation))
        tails = tuple(made[x] for x in operands if x in made and _summed(graph, users, x))
        others = tuple(x for x in operands if not (x in made and _summed(graph, users, x)))
        if not tails:
            return None
    else:
        return None
    norm = norms.get(value)
    return Joint(value, index, tails, others, norm, _active(graph, users, norm, value), _cuts(graph, users, index))


def _after(users: Mapping[Node, list[int]], norms: Mapping[Node, Affine], value: Node) -> Node:
    """Behind what scales and moves it, where nothing else takes it in."""
    return norms[value].result if value in norms and len(users[value]) == 1 else value


def _adds(graph: Graph, operation: Operation) -> bool:
    return operation.name == "add" and len(graph.on_images(operation)) == 2


def _summed(graph: Graph, users: Mapping[Node, list[int]], value: Node) -> bool:
    """Whether nothing but a sum takes it in."""
    return len(users.get(value, ())) == 1 and _adds(graph, graph.operations[users[value][0]])


def _operands(graph: Graph, users: Mapping[Node, list[int]], operation: Operation) -> Iterator[Node]:
    """What is added, sums within the sum written out."""
    sums = {x.outputs[0]: x for x in graph.operations if _adds(graph, x)}
    for node in operation.nodes:
        if node in sums and _summed(graph, users, node):
            yield from _operands(graph, users, sums[node])
        else:
            yield node


def _active(graph: Graph, users: Mapping[Node, list[int]], norm: Affine | None, value: Node) -> Node:
    node = norm.result if norm else value
    activated = False
    while True:
        after = [graph.operations[i] for i in users.get(node, ())]
        after = [x for x in after if x.name in ACTIVATIONS and len(graph.on_images(x)) == 1]
        if not after or (activated and len(users[node]) > 1):
            return node
        node, activated = after[0].outputs[0], True


def _cuts(graph: Graph, users: Mapping[Node, list[int]], index: int) -> bool:
    """Whether nothing that was made before an operation is taken in after it."""
    before = [graph.images, *(node for x in graph.operations[:index] for node in x.outputs)]
    return max((max(users.get(node, [0])) for node in before), default=0) <= index
