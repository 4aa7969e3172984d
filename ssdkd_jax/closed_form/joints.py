"""Where the maps of a network come together: what one linear layer makes, or a sum of several.

A joint is what can be asked to be like a map of the teacher. It is on the trunk where every path from the images to the
logits passes it, as a group's output in a residual network; the others stand inside a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ssdkd_jax.closed_form import affine, linear
from ssdkd_jax.closed_form.affine import Affine
from ssdkd_jax.closed_form.graph import Graph, Node, Operation
from ssdkd_jax.closed_form.linear import Conv, Dense, Linear

Resolution = tuple[int, ...]
BY_CHANNEL = (  # what leaves each channel to itself, where nothing is broadcast over channels
    *(
        "add",
        "sub",
        "mul",
        "div",
        "max",
        "min",
        "neg",
        "exp",
        "log1p",
        "logistic",
        "tanh",
        "erf",
        "clamp",
        "integer_pow",
    ),
    *("square", "sqrt", "rsqrt", "pow", "select_n", "gt", "ge", "lt", "le", "convert_element_type", "copy", "pad"),
    *("reduce_window_max", "reduce_window_min", "reduce_window_sum", "stop_gradient"),
)
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
        follows: maps whose channels it keeps, each at its place: `others`, and what filters of single channels see.
        norm: what first scales and moves it afterwards.
        active: the map behind the activation that follows.
        trunk: whether all paths to the logits pass it.
    """

    value: Node
    index: int
    tails: tuple[Tail, ...]
    others: tuple[Node, ...]
    follows: tuple[Node, ...]
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
    layers, norms = linear.found_in(graph), dict[Node, Affine]()
    for norm in affine.found_in(graph):
        norms.setdefault(norm.source, norm)
    tails = {}
    for value, layer in layers.items():
        norm = norms.get(value) if len(graph.users.get(value, ())) == 1 else None
        if not layer.by_channel and _summed(graph, end := norm.result if norm else value):
            tails[end] = Tail(layer, norm)
    made = {value: ([Tail(layer, None)], []) for value, layer in layers.items()}
    made |= {x.outputs[0]: _terms(graph, x, tails) for x in graph.operations if _adds(graph, x)}
    inside = {*tails, *(tail.layer.result for tail in tails.values())}
    found = []
    for index, operation in enumerate(graph.operations):
        value = operation.outputs[0]
        terms, others = made.get(value, ((), ()))
        alone = value in layers and layers[value].by_channel
        if terms and value not in inside and (alone or not _summed(graph, value)):
            norm = norms.get(value)
            active, trunk = _active(graph, norm.result if norm else value), _cuts(graph, index)
            filtered = [_map_of(graph, found, tail.layer) for tail in terms if tail.layer.by_channel]
            follows = (*others, *filter(None, filtered))
            found.append(Joint(value, index, tuple(terms), tuple(others), follows, norm, active, trunk))
    return found


def _map_of(graph: Graph, found: Sequence[Joint], layer: Linear) -> Node | None:
    """The map from which the input of filters of single channels follows, each channel from its own; None without."""
    makers = {x.outputs[0]: x for x in graph.operations}
    maps = {joint.value: joint.value for joint in found} | {joint.active: joint.value for joint in found}
    queue, origins = [layer.source], set[Node]()
    while queue:
        node = queue.pop()
        if node in maps:
            origins.add(maps[node])
        elif node in makers and makers[node].name in BY_CHANNEL:
            queue.extend(graph.on_images(makers[node]))
        else:
            return None
    (origin, *others) = origins
    (channels,) = (joint.channels for joint in found if joint.value == origin)
    return None if others or channels != layer.source.shape[layer.layout.lhs[1]] else origin


def streams(found: Sequence[Joint]) -> dict[Node, Node]:
    """The first map of the sum that each map goes on, itself where it goes on none."""
    begun: dict[Node, Node] = {}
    actives = {joint.active: joint.value for joint in found}
    for joint in sorted(found, key=lambda joint: joint.index):
        before = [begun.get(actives.get(node, node)) for node in joint.follows]
        begun[joint.value] = next((x for x in before if x), joint.value)
    return begun


def _adds(graph: Graph, operation: Operation) -> bool:
    return operation.name == "add" and len(graph.on_images(operation)) == 2


def _summed(graph: Graph, value: Node) -> bool:
    """Whether nothing but a sum takes it in."""
    users = graph.users.get(value, ())
    return len(users) == 1 and _adds(graph, graph.operations[users[0]])


def _terms(graph: Graph, operation: Operation, tails: Mapping[Node, Tail]) -> tuple[list[Tail], list[Node]]:
    """What is added, sums within the sum written out: the layers that serve it alone, and the rest."""
    sums = {x.outputs[0]: x for x in graph.operations if _adds(graph, x)}
    layers, others, queue = list[Tail](), list[Node](), list(operation.nodes)
    while queue:
        node = queue.pop(0)
        if node in tails:
            layers.append(tails[node])
        elif node in sums and _summed(graph, node):
            queue[:0] = sums[node].nodes
        else:
            others.append(node)
    return layers, others


def _active(graph: Graph, node: Node) -> Node:
    """Behind the activation that takes a value in; the value itself where none does."""
    activated = False
    while True:
        after = [graph.operations[i] for i in graph.users.get(node, ())]
        after = [x for x in after if x.name in ACTIVATIONS and len(graph.on_images(x)) == 1]
        if not after or (activated and len(graph.users[node]) > 1):
            return node
        node, activated = after[0].outputs[0], True


def _cuts(graph: Graph, index: int) -> bool:
    """Whether nothing that was made before an operation is taken in after it."""
    before = [graph.images, *(node for x in graph.operations[:index] for node in x.outputs)]
    return max(graph.users.get(node, (0,))[-1] for node in before) <= index
