"""Whether a network of any origin serves as teacher or student, asked before anything is spent.

What the BatchNorm term, the hints and training take for granted is tried on a few images: every layer with running
statistics is seen, and these follow what is seen; eval mode draws, changes and mixes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.errors import FlaxError, InvalidRngError, ModifyScopeVariableError
from flax.traverse_util import flatten_dict, unflatten_dict

from ssdkd_jax.engine import parallel
from ssdkd_jax.errors import InputError
from ssdkd_jax.losses import Moments, batch_moments
from ssdkd_jax.models import observe
from ssdkd_jax.types import Array, Network, Variables

IMAGES = 4
STEP = 1 / 256  # between the running means by which layers are told apart
MOMENTUM_FIT, ROUNDING, NEIGHBOURS = 0.1, 1e-4, 1e-3


def check(
    network: Network, image_shape: tuple[int, int, int], name: str, variables: Variables | None = None
) -> list[str]:
    """What keeps a network from serving, one sentence for each fault; empty where nothing does.

    Two small programs are compiled and run. An error of the module's own passes through.

    Args:
        network: as of `models.bind`, whatever axis it is bound to.
        image_shape: (H, W, D).
        name: by which the sentences call it.
        variables: its weights; None takes fresh ones.
    """
    images = np.random.default_rng(0).random((IMAGES, *image_shape), np.float32)
    images[0] = 0.5
    try:
        variables = variables or _named(lambda: network.init(jax.random.key(0)), "when it is initialised")
    except InputError as error:
        return [_of(name, str(error))]
    program = jax.jit(lambda v, x: _seen(network.apply, v, x))

    def seen(variables: Variables, images: np.ndarray) -> tuple[Array, list[Moments]]:
        return jax.tree.map(np.asarray, _named(lambda: program(variables, images), "in eval mode"))

    faults = misplaced(variables)
    for trial in (partial(unsteady, network), partial(unseen, seen), partial(answers, seen), partial(astray, network)):
        try:
            faults += trial(variables, images)
        except InputError as error:
            faults.append(str(error))
    return [_of(name, fault) for fault in dict.fromkeys(faults)]


def _of(name: str, fault: str) -> str:
    return f"Model '{name}': {fault[0].lower()}{fault[1:]}"


def misplaced(variables: Variables) -> list[str]:
    """Layers whose running statistics are not `mean` and `var` in 'batch_stats'."""
    faults = []
    for collection in variables.keys() - {"params"}:
        kept: dict[str, list[str]] = {}
        for *path, leaf in flatten_dict(variables[collection]):
            kept.setdefault("/".join(path), []).append(leaf)
        for path, names in kept.items():
            alike = [name for name in names if re.search("mean|var", name.rpartition("/")[-1])]
            if alike and not (collection == "batch_stats" and {*observe.STATISTICS} <= {*names}):
                faults.append(
                    f"Its layer '{path}' keeps {', '.join(alike)} in '{collection}'; running statistics that are to be "
                    "matched are called mean and var, in 'batch_stats'."
                )
    return faults


def _seen(function: Callable, variables: Variables, images: Array) -> tuple[Any, list[Moments]]:
    """function(variables, images), and the moments at each layer with running statistics."""
    result, found = observe.layers(
        lambda: function(variables, images),
        lambda layer, inputs, running: Moments(*batch_moments(inputs), *running) if layer.norm else None,
    )
    return result, [moments for layer, moments in found if layer.norm]


def unsteady(network: Network, variables: Variables, images: np.ndarray) -> list[str]:
    """Whether it is traced twice to two functions."""

    def traced() -> tuple[str, list]:
        closed = jax.make_jaxpr(lambda v, x: network.apply(v, x))(variables, images)
        return re.sub("0x[0-9a-f]+", "", str(closed.jaxpr)), [np.asarray(x) for x in closed.consts]

    (one, consts), (other, others) = (_named(traced, "in eval mode") for _ in range(2))
    if one == other and all(np.array_equal(a, b, equal_nan=True) for a, b in zip(consts, others, strict=True)):
        return []
    return ["It is another function at each call; draw nothing outside of flax."]


def unseen(seen: Callable, variables: Variables, images: np.ndarray) -> list[str]:
    """Layers whose running statistics are there but not seen in eval mode, told apart by their running means."""
    numbered, paths = _numbered(variables)
    _, found = seen(numbered, images)
    numbers = {_number(moments) for moments in found}
    return [
        f"Its layer '{path}' keeps running statistics, but none of its calls is seen in eval mode; let `__call__` of "
        "the layer take what it normalises."
        for number, path in enumerate(paths)
        if number not in numbers
    ]


def answers(seen: Callable, variables: Variables, images: np.ndarray) -> list[str]:
    """Faults of the logits in eval mode."""
    (logits, _), (again, _) = (seen(variables, images) for _ in range(2))
    beside_others, _ = seen(variables, np.concatenate([images[:1], 1 - images[1:]]))
    faults, rounding = [], NEIGHBOURS * np.abs(logits).max()
    if not np.isfinite(logits).all():
        return ["It answers NaN or infinity to images in [0, 1]; look at its weights, mean and std."]
    if np.abs(logits - again).max() > rounding:
        faults.append("It answers the same images differently at each call; let it draw nothing in eval mode.")
    if np.abs(logits[0] - beside_others[0]).max() > rounding:
        faults.append(
            "Its answer to an image depends on the others of the batch in eval mode; normalise by running statistics."
        )
    return faults


def astray(network: Network, variables: Variables, images: np.ndarray) -> list[str]:
    """Faults of train mode, among them running statistics that do not follow the moments that are seen."""
    numbered, paths = _numbered(variables)

    def run(key: Array | None) -> tuple[Any, list[Moments]]:
        def alone(x: Array) -> Any:
            keys = () if key is None else (key,)
            return _seen(lambda v, x: network.train(v, x, *keys), numbered, x)

        one_device = jax.jit(jax.vmap(alone, axis_name=parallel.AXIS))
        return jax.tree.map(lambda x: np.asarray(x[0]), one_device(images[None]))

    try:
        (_, updated), found = _named(lambda: run(None), "in train mode")
    except InputError as error:
        if not isinstance(error.__cause__, InvalidRngError):
            raise
        (_, updated), found = _named(lambda: run(jax.random.key(0)), "in train mode")
    if jax.tree.map(_kind, updated) != jax.tree.map(_kind, dict(variables)):
        return ["Its variables are of another structure, shape or dtype after a training step; keep them as they are."]
    leaves = flatten_dict(updated.get("batch_stats", {}), sep="/")
    faults = []
    for number, path in enumerate(paths):
        own = [moments for moments in found if _number(moments) == number]
        kept = [leaves[f"{path}/{name}".lstrip("/")] for name in observe.STATISTICS]
        if sum(moments.mean.size for moments in own) != kept[0].size:  # shared by several calls, or not called
            continue
        layouts = zip(*(_layouts(x, len(own)) for x in kept), strict=True)
        if not any(_all_follow(zip(*layout, strict=True), own) for layout in layouts):
            faults.append(
                f"The running statistics of its layer '{path}' do not follow the mean and variance of its input over "
                "all axes but that of its features; normalise the input itself, or name that axis in a field `axis`."
            )
    return faults


def _layouts(statistic: Array, layers: int) -> list[Array]:
    """The statistics [layers, features] that one array may hold, stacked on its first axis or on another."""
    axes = [axis for axis, size in enumerate(statistic.shape) if size == layers and layers > 1]
    return [np.moveaxis(statistic, axis, 0).reshape(layers, -1) for axis in axes] or [statistic.reshape(layers, -1)]


def _all_follow(rows: Iterable[Sequence[Array]], seen: Sequence[Moments]) -> bool:
    return all(any(_follow(row, moments) for moments in seen) for row in rows)


def _follow(renewed: Sequence[Array], moments: Moments) -> bool:
    """Whether statistics [features] after a step are a blend of those before and of a batch's."""
    for after, batch, before in zip(renewed, moments[:2], moments[2:], strict=True):
        blend = np.stack([batch, before], -1)
        rest = after - blend @ np.linalg.lstsq(blend, after, rcond=None)[0]
        if np.linalg.norm(rest) > MOMENTUM_FIT * np.linalg.norm(after - after.mean()) + ROUNDING * np.abs(after).max():
            return False
    return True


def _numbered(variables: Variables) -> tuple[Variables, list[str]]:
    """The variables with running means that tell their layers apart, and the layers' paths."""
    paths, leaves = observe.norm_paths(variables), flatten_dict(variables.get("batch_stats", {}))
    for number, path in enumerate(paths):
        place = (*path.split("/"), "mean") if path else ("mean",)
        leaves[place] = np.full(leaves[place].shape, STEP * number, leaves[place].dtype)
    return {**variables, **({"batch_stats": unflatten_dict(leaves)} if leaves else {})}, paths


def _number(moments: Moments) -> int:
    return round(float(moments.running_mean.mean()) / STEP)


def _kind(x: Array) -> tuple:
    return x.shape, x.dtype


def _named(call: Callable[[], Any], when: str) -> Any:
    """`call()`; what flax refuses is an InputError that names the innermost layer."""
    trail: list[str] = []

    def follow(function: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception:
            trail.append("/".join(context.module.path))
            raise

    try:
        with nn.intercept_methods(follow):
            return call()
    except (FlaxError, ValueError) as error:
        said = re.sub(r" \(https://flax\S*", "", str(error).partition("\n")[0]).rstrip(".")
        if not isinstance(error, FlaxError) and not said.startswith('Parameter "'):  # flax's, of a missing `train`
            raise
        remedy = _REMEDIES.get(type(error), "mend it, or let it depend on `train`")
        where = f"Its layer '{trail[0]}'" if trail and trail[0] else "It"
        raise InputError(f"{where} fails {when} ({said}); {remedy}.") from error


_REMEDIES = {
    InvalidRngError: "let it draw where `train` is true alone, as by deterministic=not train",
    ModifyScopeVariableError: "let it change its state where `train` is true alone, and in 'batch_stats'",
}
