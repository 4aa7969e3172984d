"""Which channels of a traced network stand or fall together, and which are left where a share of each kind is kept.

Along the axes of all weights and values, elements are tied: those of a layer's output to those that the next one reads,
through sums, concatenations, filters of single channels, BatchNorms and flattened maps. What is tied is a set, and sets
that meet the same axes equally often are channels of a kind. Of each kind the share is kept, of what is tied to images
or logits all. Dependency graphs of this sort are known from structural pruning (DepGraph, Fang et al., CVPR 2023); this
one, of elements instead of axes, is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ssdkd_jax.closed_form.graph import Node, Writer
from ssdkd_jax.errors import InputError
from ssdkd_jax.models.widths import channels
from ssdkd_jax.narrowing import rules
from ssdkd_jax.narrowing.elements import FIXED, Elements, fixed
from ssdkd_jax.types import Array, Variables

__all__ = ["Kept", "kept"]


class Kept(NamedTuple):
    """What is left of a network; for each array a mask along each of its axes.

    Attributes:
        variables: as the variables.
        values: as what the function returns.
    """

    variables: Any
    values: Any


def kept(
    function: Callable[[Variables, Array], Any],
    variables: Variables,
    shape: Sequence[int],
    share: float,
    logits: Callable[[Any], Any],
) -> Kept:
    """What is left of a network where the share of each kind of its channels is kept, the first ones of each.

    Args:
        function: (variables, images) -> a pytree of arrays, the logits among them.
        shape: of the images.
        logits: what the function returns -> the logits in it.

    Raises:
        InputError: where no channel can be dropped; the sentence names what keeps them.

    >>> import jax.numpy as jnp
    >>> weights = {"first": jnp.ones((3, 8)), "scale": jnp.ones(8), "last": jnp.ones((8, 5))}
    >>> left = kept(lambda w, x: x @ w["first"] * w["scale"] @ w["last"], weights, (2, 3), 0.5, lambda x: x)
    >>> [[int(mask.sum()) for mask in left.variables[name]] for name in weights]
    [[3, 4], [4], [4, 5]]
    """
    closed, returned = jax.make_jaxpr(function, return_shape=True)(variables, jax.ShapeDtypeStruct(shape, "float32"))
    elements, writer = Elements(), Writer()
    inputs = [writer.node(x.aval.shape) for x in closed.jaxpr.invars]
    outputs = writer.written(closed.jaxpr, closed.consts, inputs)
    axes = {node: fixed(node.shape) for node in (inputs[-1], *writer.constants)}
    leaves = [elements.axes(node.shape) for node in inputs[:-1]]
    axes.update(zip(inputs[:-1], leaves, strict=True))
    for operation in writer.operations:
        given = [axes[x] if isinstance(x, Node) else fixed(rules.shape_of(x)) for x in operation.inputs]
        axes.update(zip(operation.outputs, rules.through(elements, operation, given), strict=True))
    found = [axes[x] if isinstance(x, Node) else fixed(rules.shape_of(x)) for x in outputs]
    structures = jax.tree.structure(variables), jax.tree.structure(returned)
    values = jax.tree.unflatten(structures[1], found)
    for axis in jax.tree.leaves(logits(values)):
        elements.fix(axis)
    of_values, of_leaves = ([axis for one in many for axis in one] for many in (axes.values(), leaves))
    mask = _mask(elements.sets(), [*of_values, *elements.parts], of_leaves, share)
    if mask.all():
        raise InputError(_refusal(elements, share))
    masks = ([tuple(mask[axis] for axis in one) for one in many] for many in (leaves, found))
    return Kept(*map(jax.tree.unflatten, structures, masks))


def _mask(sets: np.ndarray, axes: Sequence[np.ndarray], of_leaves: Sequence[np.ndarray], share: float) -> np.ndarray:
    """Whether each element is kept; what no weight has is.

    Args:
        axes: of all weights and values, and parts of them.
        of_leaves: of the weights alone.
    """
    weighed = np.unique(sets[np.concatenate(of_leaves)]) if of_leaves else ()
    met: dict[int, list[tuple[int, int]]] = {}
    for place, axis in enumerate({id(axis): axis for axis in axes}.values()):
        for one, times in zip(*np.unique(sets[axis], return_counts=True), strict=True):
            met.setdefault(int(one), []).append((place, int(times)))
    met.pop(int(sets[FIXED]), None)
    kinds: dict[tuple, list[int]] = {}
    first = dict(zip(*np.unique(sets, return_index=True), strict=True))
    for one in sorted(met.keys() & {*map(int, weighed)}, key=first.__getitem__):
        kinds.setdefault(tuple(met[one]), []).append(one)
    dropped = [one for kind in kinds.values() for one in kind[channels(len(kind), share) :]]
    return ~np.isin(sets, dropped)


def _refusal(elements: Elements, share: float) -> str:
    """Why no channel can be dropped."""
    remedy = "name a student, such as 'wrn10_1', or pass a flax module"
    if not elements.held:
        return f"The network has no channels of which {share:g} could be kept, or too few; {remedy}."
    operation, place = elements.held[0]
    where = f" in {place}" if place else ""
    return (
        f"The network's channels cannot be narrowed to {share:g}: the operation '{operation}'{where} mixes them with "
        f"positions or keeps their number; {remedy}."
    )
