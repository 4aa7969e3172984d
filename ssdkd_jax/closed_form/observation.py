"""What the teacher has at the maps that the student's stand for, and which of its channels are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssdkd_jax.closed_form import joints, linear
from ssdkd_jax.closed_form.graph import Graph, Node
from ssdkd_jax.closed_form.joints import Joint, Resolution
from ssdkd_jax.closed_form.least_squares import pick
from ssdkd_jax.closed_form.linear import Conv, Dense, Linear, Places
from ssdkd_jax.engine import parallel
from ssdkd_jax.types import Array

ROWS, CHOICE = 20_000, 8000  # pixels of a least-squares problem, and of the choice of channels


class Seen(NamedTuple):
    """A map of the teacher, at R of its pixels.

    Attributes:
        rows: [R, d].
        active: [R, d], behind its activation.
        a, b: [d], by which it is scaled and moved before that.
        mean, var: [d], the running statistics of what does so; None where there are none.
        weights: [d], what the next layers make of each channel.
    """

    rows: np.ndarray
    active: np.ndarray
    a: np.ndarray
    b: np.ndarray
    mean: np.ndarray | None
    var: np.ndarray | None
    weights: np.ndarray

    def of(self, channels: np.ndarray) -> Seen:
        """These channels of it."""
        return Seen(*(None if x is None else x[..., channels] for x in self))


def places(resolution: Resolution, images: int) -> Places:
    """The pixels that take part: at most `ROWS`, of all images, the same ones each time."""
    if not resolution:
        return Places(np.arange(images))
    height, width = resolution
    total = images * height * width
    chosen = np.arange(total) if total <= ROWS else np.random.default_rng(0).integers(total, size=ROWS)
    image, pixel = np.divmod(np.sort(chosen), height * width)
    return Places(image, *np.divmod(pixel, width))


def observe(
    graph: Graph, leaves: Mapping[str, Array], images: Array, wanted: Sequence[tuple[Joint, Resolution]]
) -> list[Seen]:
    """What these maps of the teacher are on these images, brought to these resolutions."""
    maps = {(node, at): joint.layout for joint, at in wanted for node in (joint.value, joint.active)}
    rows = dict(zip(maps, jax.device_get(parallel.quick_jit(partial(_rows, graph, maps))(leaves, images)), strict=True))
    layers = linear.found_in(graph)
    return [
        Seen(
            rows[joint.value, at],
            rows[joint.active, at],
            *_norm(graph, leaves, joint),
            _weights(graph, leaves, layers, joint),
        )
        for joint, at in wanted
    ]


def _rows(
    graph: Graph, maps: Mapping[tuple[Node, Resolution], Conv | Dense], leaves: Mapping[str, Array], images: Array
) -> list[Array]:
    """Of each map, which lies as its layout says, some of the pixels at a resolution: [R, d]."""
    values = {graph.images: images}
    for operation in graph.operations:
        graph.run(operation, leaves, values)
    return [
        linear.taken(resized(layout.last(values[node]), at), places(at, len(images)))
        for (node, at), layout in maps.items()
    ]


def _norm(graph: Graph, leaves: Mapping[str, Array], joint: Joint) -> tuple[np.ndarray | None, ...]:
    """a, b, mean and var of what first scales and moves a map."""
    if joint.norm is None:
        return np.ones(joint.channels), np.zeros(joint.channels), None, None
    a, b = joint.norm.coefficients(graph, leaves)
    if not joint.norm.var:
        return a, b, None, None
    return a, b, *(np.asarray(leaves[paths[0]], np.float64).ravel() for paths in (joint.norm.mean, joint.norm.var))


def _weights(graph: Graph, leaves: Mapping[str, Array], layers: Mapping[Node, Linear], joint: Joint) -> np.ndarray:
    """The norm of what the next linear layers make of each channel; 1 where there are none."""
    squares, queue, done = np.zeros(joint.channels), [joint.active], set[int]()
    while queue:
        for index in set(graph.users.get(queue.pop(), ())) - done:
            done.add(index)
            made = graph.operations[index].outputs
            if made[0] not in layers or layers[made[0]].by_channel:
                queue.extend(made)
                continue
            power = np.square(layers[made[0]].matrix(leaves)).sum(1)
            if power.size % joint.channels == 0:
                squares += power.reshape(-1, joint.channels).sum(0)
    return np.sqrt(squares) if squares.any() else np.ones(joint.channels)


def resized(x: Array, resolution: Resolution) -> Array:
    """Maps [B, h, w, d], or values [B, d], at another resolution."""
    if x.shape[1:-1] == resolution:
        return x
    if not resolution:
        return x.mean((1, 2))
    if x.ndim == 2:
        return jnp.broadcast_to(x[:, None, None], (len(x), *resolution, x.shape[-1]))
    return jax.image.resize(x, (len(x), *resolution, x.shape[-1]), "linear")


def kept(ours: Sequence[Joint], theirs: Sequence[Joint], seen: Sequence[Seen]) -> list[np.ndarray]:
    """The channels of the teacher that each map of the student keeps: the same ones all along a sum that goes on.

    Args:
        theirs, seen: what each of `ours` stands for.
    """
    of_student, of_teacher = joints.streams(ours), joints.streams(theirs)
    streams = [(of_student[s.value], of_teacher[t.value]) for s, t in zip(ours, theirs, strict=True)]
    chosen = {stream: choose(x, joint.channels) for stream, joint, x in zip(streams, ours, seen, strict=True)}
    return [chosen[stream] for stream in streams]  # of the last in each stream


def choose(seen: Seen, count: int) -> np.ndarray:
    """Which channels a map of `count` keeps; all of them over and over where it has more."""
    size = seen.rows.shape[1]
    if count >= size:
        return np.resize(np.arange(size), count)
    return pick(seen.active[:: max(1, len(seen.active) // CHOICE)], seen.weights, count)
