"""Values marked within a computation, taken out of it through jit, remat, scan and vmap.

A mark is an identity that survives every transform. The computation is traced, then run equation by equation: a
transform that holds marks is applied anew to a body that also returns what was read at them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from ssdkd_jax.errors import InputError
from ssdkd_jax.types import Array

TRACING = jax.make_user_context(False)  # part of jit's cache key: a trace without marks is not taken for one with them


@jax.tree_util.register_static
@dataclass(frozen=True)
class Layer:
    """A layer that is watched.

    Attributes:
        path: from the root of the model, as 'block1/norm'.
        norm: whether it keeps running statistics `mean` and `var`; otherwise it is a Dense.
        axes: of its features in its input, counted from the end.
        depth: how many calls of the same layer it stands in, as of a subclass that calls its base.
        members: how many leading axes its statistics have beyond its own, one for each vmap that maps them.
    """

    path: str
    norm: bool
    axes: tuple[int, ...] = (-1,)
    depth: int = 0
    members: int = 0


Read = Callable[[Layer, Sequence[Array]], Any]
Found = list[tuple[Layer, Any]]


def mark(layer: Layer, values: Sequence[Array]) -> list[Array]:
    """The values themselves; they are found by `collect` as long as the result is alive until its trace ends."""
    return _mark.bind(*values, layer=layer)


def collect(call: Callable[[], Any], read: Read) -> tuple[Any, Found]:
    """`call()`, and what `read` makes of each mark within, in the order of execution.

    A layer under scan has one entry for each iteration. What `read` computes is rematerialised with its layer.

    Raises:
        InputError: where a layer with running statistics stands in a loop of unknown length or in a branch.
    """

    def traced() -> Any:
        with TRACING(True):
            return call()

    closed, shapes = jax.make_jaxpr(traced, return_shape=True)()
    leaves, found = _evaluate(closed, (), read)
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves), found


_mark = Primitive("mark")
_mark.multiple_results = True
_mark.def_impl(lambda *values, layer: list(values))
_mark.def_abstract_eval(lambda *avals, layer: list(avals))
mlir.register_lowering(_mark, lambda context, *values, layer: values)
ad.primitive_jvps[_mark] = lambda primals, tangents, layer: (_mark.bind(*primals, layer=layer), list(tangents))


def _batch(values: Sequence[Array], dims: Sequence[int | None], *, layer: Layer) -> tuple[list[Array], list[int]]:
    """Under vmap: members of their own where statistics are mapped, more rows of one layer otherwise."""
    (x, *statistics), (dim, *others) = values, dims
    if all(d is None for d in others):
        return _mark.bind(jnp.moveaxis(x, dim, layer.members), *statistics, layer=layer), [layer.members, *others]
    size = next(x.shape[d] for x, d in zip(statistics, others, strict=True) if d is not None)
    members = [
        jnp.broadcast_to(x, (size, *x.shape)) if d is None else jnp.moveaxis(x, d, 0)
        for x, d in zip(values, dims, strict=True)
    ]
    return _mark.bind(*members, layer=replace(layer, members=layer.members + 1)), [0] * len(values)


batching.primitive_batchers[_mark] = _batch


def _evaluate(closed: ClosedJaxpr, arguments: Sequence[Array], read: Read) -> tuple[list[Array], Found]:
    jaxpr, found = closed.jaxpr, []
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *arguments), strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else env[atom]

    for eqn in jaxpr.eqns:
        inputs = [value(atom) for atom in eqn.invars]
        outputs, inner = _step(eqn, inputs, read)
        env.update(zip(eqn.outvars, outputs, strict=True))
        for layer, seen in inner:
            if found and found[-1][0].depth > layer.depth:  # its base class was read
                layer, seen = replace(found[-1][0], depth=layer.depth), found.pop()[1]
            found.append((layer, seen))
    return [value(atom) for atom in jaxpr.outvars], found


def _step(eqn: JaxprEqn, inputs: Sequence[Array], read: Read) -> tuple[Sequence[Array], Found]:
    if eqn.primitive is _mark:
        return inputs, list(_members(eqn.params["layer"], inputs, read))
    marked = [layer for jaxpr in _bodies(eqn) for layer in _layers(jaxpr)]
    through = _TRANSFORMS.get(eqn.primitive) if marked else None
    if through is not None:
        return through(eqn, inputs, read)
    for layer in marked:
        if layer.norm:
            raise InputError(
                f"The BatchNorm '{layer.path}' stands in '{eqn.primitive.name}', whose inner values cannot be read; "
                "call it outside, or in nn.scan."
            )
    return run(eqn, inputs), []


def _members(layer: Layer, values: Sequence[Array], read: Read) -> Iterator[tuple[Layer, Any]]:
    if not layer.members:
        yield layer, read(layer, values)
        return
    for member in range(values[0].shape[0]):
        yield from _members(replace(layer, members=layer.members - 1), [x[member] for x in values], read)


def run(eqn: JaxprEqn, inputs: Sequence[Array]) -> Sequence[Array]:
    """One equation as it is."""
    arguments = {atom: x for atom, x in zip(eqn.invars, inputs, strict=True) if not isinstance(atom, Literal)}
    jaxpr = Jaxpr((), list(arguments), list(eqn.outvars), [eqn], eqn.effects)
    return jaxpr_as_fun(ClosedJaxpr(jaxpr, ()))(*arguments.values())


def _jit(eqn: JaxprEqn, inputs: Sequence[Array], read: Read) -> tuple[Sequence[Array], Found]:
    return _evaluate(eqn.params["jaxpr"], inputs, read)


def _remat(eqn: JaxprEqn, inputs: Sequence[Array], read: Read) -> tuple[Sequence[Array], Found]:
    body = ClosedJaxpr(eqn.params["jaxpr"], ())
    options = {name: eqn.params[name] for name in ("prevent_cse", "policy")}
    return jax.checkpoint(lambda *x: _evaluate(body, x, read), **options)(*inputs)


def _scan(eqn: JaxprEqn, inputs: Sequence[Array], read: Read) -> tuple[Sequence[Array], Found]:
    options = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
    consts, carried = _consts_and_carried(eqn.params)
    fixed, carry, rows = inputs[:consts], inputs[consts : consts + carried], inputs[consts + carried :]

    def body(carry: Sequence[Array], row: Sequence[Array]) -> tuple[Any, Any]:
        outputs, found = _evaluate(eqn.params["jaxpr"], (*fixed, *carry, *row), read)
        return outputs[:carried], (outputs[carried:], found)

    carry, (rows, stacked) = jax.lax.scan(body, list(carry), list(rows), **options)
    order = range(options["length"])[:: -1 if options["reverse"] else 1]
    return [*carry, *rows], [jax.tree.map(lambda x, i=i: x[i], one) for i in order for one in stacked]


def _consts_and_carried(params: dict[str, Any]) -> tuple[int, int]:
    """How many inputs of a scan are the same in all iterations, and how many are carried from one to the next."""
    if "num_consts" in params:  # jax below 0.11
        return params["num_consts"], params["num_carry"]
    consts, carried, _ = (len(part.vals) for part in params["ft_in"].unpack())
    return consts, carried


_TRANSFORMS = {
    jax.extend.core.primitives.jit_p: _jit,
    jax.extend.core.primitives.remat_p: _remat,
    jax.extend.core.primitives.scan_p: _scan,
}


def _bodies(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    kinds = (Jaxpr, ClosedJaxpr)
    for leaf in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: isinstance(x, kinds)):
        if isinstance(leaf, kinds):
            yield getattr(leaf, "jaxpr", leaf)


def _layers(jaxpr: Jaxpr) -> Iterator[Layer]:
    for eqn in jaxpr.eqns:
        if eqn.primitive is _mark:
            yield eqn.params["layer"]
        for body in _bodies(eqn):
            yield from _layers(body)
