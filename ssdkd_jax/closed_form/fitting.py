"""The student, solved for as it runs: each map when it is reached, on what the student itself has there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ssdkd_jax.closed_form.graph import Graph, Node
from ssdkd_jax.closed_form.joints import Joint
from ssdkd_jax.closed_form.least_squares import moments, solve_held
from ssdkd_jax.closed_form.linear import Leaves, Linear, Places, taken
from ssdkd_jax.closed_form.observation import Seen, places
from ssdkd_jax.types import Array

PART = 8192  # rows of a problem that are in memory at once
LARGEST = 1 << 24  # numbers of a problem with a filter for each channel
HELD = 4  # one image of so many chooses the ridge
TINY = 1e-12


def fit(graph: Graph, leaves: Leaves, ours: Sequence[Joint], goals: Sequence[Seen], images: Array) -> Leaves:
    """The variables of the student, with those of its maps such that they are like `goals`.

    Args:
        leaves: of the student as it came; what belongs to no map stays.
        goals: of each joint, with the channels that it keeps.
    """
    leaves, values = dict(leaves), {graph.images: images}
    wanted = {joint.index: (joint, goal) for joint, goal in zip(ours, goals, strict=True)}
    norms = {joint.norm.operations[0].outputs[0]: pair for pair in wanted.values() if (joint := pair[0]).norm}
    late = {node for joint in ours for node in _branch(joint)}
    makers = {operation.outputs[0]: operation for operation in graph.operations}
    needed = {tail.layer.source: joint.index for joint in ours for tail in joint.tails}
    for index, operation in enumerate(graph.operations):
        node = operation.outputs[0]
        if node in late:
            continue  # until the sum is reached
        if index in wanted:
            joint, goal = wanted[index]
            solve_layers(graph, leaves, joint, goal, values)
            for before in _branch(joint):
                graph.run(makers[before], leaves, values)
        if node in norms:
            set_norm(graph, leaves, *norms[node], values)
        graph.run(operation, leaves, values)
        graph.forget(values, index, needed)
    return leaves


def _branch(joint: Joint) -> Iterator[Node]:
    """What lies between the inputs of the layers of a map and the map."""
    for tail in joint.tails:
        for node in (tail.layer.result, *(x.outputs[0] for x in (tail.norm.operations if tail.norm else ()))):
            if node != joint.value:
                yield node


def solve_layers(graph: Graph, leaves: Leaves, joint: Joint, goal: Seen, values: Mapping[Node, Array]) -> None:
    """Solve for all layers that make a map at once; they fit what the other terms of its sum still lack."""
    where = places(joint.resolution, values[joint.tails[0].layer.source].shape[0])
    rows = goal.rows if joint.norm else goal.rows * np.float32(goal.a) + np.float32(goal.b)
    for node in joint.others:
        rows = rows - taken(np.asarray(joint.layout.last(values[node])), where)
    moves = bool(joint.norm) or any(tail.norm for tail in joint.tails)
    if (layer := joint.tails[0].layer).by_channel:  # such a layer is no term of a sum that is solved for
        layer.set(leaves, filters(layer, values[layer.source], rows, where, moves))
        return

    def parts(chosen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(chosen), PART):
            part = chosen[start : start + PART]
            seen = [tail.layer.layout.seen(values[tail.layer.source], where.some(part)) for tail in joint.tails]
            yield np.concatenate(seen, 1), rows[part]

    held = where.image % HELD == HELD - 1
    known, told = (moments(parts(np.flatnonzero(x))) for x in (~held, held))
    weights, offset = solve_held(known, told, moves)
    end = 0
    for tail in joint.tails:
        begin, end = end, end + tail.layer.order.size // joint.channels
        tail.layer.set(leaves, weights[begin:end])
        if tail.norm:
            alone = np.zeros_like(weights)
            alone[begin:end] = weights[begin:end]
            tail.norm.set(graph, leaves, np.ones(len(offset)), offset, *(known + told).made(alone))
            offset = 0 * offset  # of the sum: the first that can takes it all


def filters(layer: Linear, source: Array, rows: np.ndarray, where: Places, moves: bool) -> np.ndarray:
    """The filters [kh kw, d] of a layer with one for each channel, each fitted on what it sees of its channel."""
    channels = rows.shape[1]
    size = max(1, LARGEST // layer.order.size)

    def parts(chosen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            seen = layer.layout.seen(source, where.some(part)).reshape(len(part), -1, channels)
            yield seen.transpose(2, 0, 1), rows[part].T[..., None]

    held = where.image % HELD == HELD - 1
    known, told = (moments(parts(np.flatnonzero(x))) for x in (~held, held))
    pairs = (tuple(m._replace(mean=m.mean[i], square=m.square[i]) for m in (known, told)) for i in range(channels))
    return np.concatenate([solve_held(*pair, moves)[0] for pair in pairs], 1)


def set_norm(graph: Graph, leaves: Leaves, joint: Joint, goal: Seen, values: Mapping[Node, Array]) -> None:
    """Let what scales and moves a map of the student do as the teacher's does with the one that it stands for.

    Running statistics are the teacher's, moved and scaled by the ratio of the two maps' moments at the same pixels.
    """
    own = np.asarray(joint.layout.last(values[joint.value]))
    own = taken(own, places(joint.resolution, len(own)))
    mean, var = own.mean(0, dtype=np.float64), own.var(0, dtype=np.float64) + TINY
    mean_t, var_t = goal.rows.mean(0, dtype=np.float64), goal.rows.var(0, dtype=np.float64) + TINY
    ratio = np.ones(joint.channels)
    running = mean, var
    if goal.mean is not None and joint.norm.var:
        ratio = np.sqrt(var / var_t)
        running = mean + (goal.mean - mean_t) * ratio, goal.var * np.square(ratio)
    joint.norm.set(graph, leaves, goal.a / ratio, goal.a * (mean_t - mean / ratio) + goal.b, *running)
