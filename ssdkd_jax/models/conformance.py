"""Whether a network of any origin serves as teacher or student, asked before anything is spent.

What the BatchNorm term, the hints and training take for granted is tried on a few images: every layer with running
statistics is seen, and these follow what is seen; eval mode draws, changes and mixes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from flax.errors import InvalidRngError
from flax.traverse_util import flatten_dict, unflatten_dict

from ssdkd_jax.engine import parallel
from ssdkd_jax.errors import InputError
from ssdkd_jax.losses import Moments, batch_moments
from ssdkd_jax.models import observe, refusals
from ssdkd_jax.types import Array, Network, Variables

IMAGES = 4
STEP = 1 / 256  # between the running means by which layers are told apart
MOMENTUM_FIT, ROUNDING, NEIGHBOURS = 0.1, 1e-4, 1e-3


def check(
    network: Network | Callable[[Any, Array], Array],
    image_shape: tuple[int, int, int],
    name: str,
    variables: Any = None,
    trained: bool = True,
) -> list[str]:
    """What keeps a network from serving, one sentence for each fault; empty where nothing does.

    Two small programs are compiled and run. An error of the module's own passes through.

    Args:
        network: as of `models.bind`, whatever axis it is bound to; or a function (variables, images) -> logits, which
            is never trained.
        image_shape: (H, W, D).
        name: by which the sentences call it.
        variables: its weights, of a frozen network any pytree of arrays; None takes fresh ones.
        trained: False for a frozen teacher, whose `train` is never called.
    """
    if not isinstance(network, Network):
        network, trained = Network(lambda key: {}, network, network), False
    images = np.random.default_rng(0).random((IMAGES, *image_shape), np.float32)
    images[0] = 0.5
    try:
        if variables is None:
            init = parallel.quick_jit(network.init)
            variables = refusals.named(lambda: init(jax.random.key(0)), "when it is initialised")
    except InputError as error:
        return [_of(name, str(error))]
    program = parallel.quick_jit(lambda v, x: _seen(network.apply, v, x))

    def seen(variables: Variables, images: np.ndarray) -> tuple[Array, list[Moments]]:
        return jax.tree.map(np.asarray, refusals.named(lambda: program(variables, images), "in eval mode"))

    faults = misplaced(variables)
    trials = [partial(unsteady, network), partial(unseen, seen), partial(answers, seen)]
    for trial in (*trials, partial(astray, network, seen)) if trained else trials:
        try:
            faults += trial(variables, images)
        except InputError as error:
            faults.append(str(error))
    return [_of(name, fault) for fault in dict.fromkeys(faults)]


def _of(name: str, fault: str) -> str:
    return f"Model '{name}': {fault[0].lower()}{fault[1:]}"


def misplaced(variables: Any) -> list[str]:
    """Layers whose running statistics are not `mean` and `var` in 'batch_stats'."""
    faults = []
    collections = variables if isinstance(variables, Mapping) else {}
    for collection in collections.keys() - {"params"}:
        kept: dict[str, list[str]] = {}
        if not isinstance(collections[collection], Mapping):
            continue
        for *path, leaf in flatten_dict(collections[collection]):
            kept.setdefault("/".join(map(str, path)), []).append(str(leaf))
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
        return re.sub("0x[0-9a-f]+", "", str(closed.jaxpr)), [_plain(x) for x in closed.consts]

    (one, consts), (other, others) = (refusals.named(traced, "in eval mode") for _ in range(2))
    if one == other and all(np.array_equal(a, b, equal_nan=True) for a, b in zip(consts, others, strict=True)):
        return []
    return ["It is another function at each call; let it draw nothing in eval mode, and by its key in train mode."]


def _plain(x: Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x)


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
    if not (isinstance(logits, np.ndarray) and logits.ndim >= 2 and len(logits) == len(images)):
        shapes = jax.tree.map(np.shape, logits)
        return [f"It answers {shapes} to {IMAGES} images; let it return one array of logits [B, C]."]
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


def astray(network: Network, seen: Callable, variables: Variables, images: np.ndarray) -> list[str]:
    """Faults of train mode, among them running statistics that do not follow the moments that are seen."""
    if not (isinstance(variables, Mapping) and "params" in variables):
        return ["Its variables are no dict with 'params', so that it cannot be trained; keep its weights there."]
    numbered, paths = _numbered(variables)

    def run(key: Array | None) -> tuple[Any, list[Moments]]:
        def alone(x: Array) -> Any:
            keys = () if key is None else (key,)
            return _seen(lambda v, x: network.train(v, x, *keys), numbered, x)

        one_device = parallel.quick_jit(jax.vmap(alone, axis_name=parallel.AXIS))
        return jax.tree.map(lambda x: np.asarray(x[0]), one_device(images[None]))

    try:
        (_, updated), found = refusals.named(lambda: run(None), "in train mode")
    except InputError as error:
        if not isinstance(error.__cause__, InvalidRngError):
            raise
        (_, updated), found = refusals.named(lambda: run(jax.random.key(0)), "in train mode")
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
        if any(_all_follow(zip(*layout, strict=True), own) for layout in layouts):
            continue
        if len(own) == sum(_number(moments) == number for moments in seen(numbered, images)[1]):  # not called again
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
    paths = observe.norm_paths(variables)
    if not paths:
        return variables, paths
    leaves = flatten_dict(variables["batch_stats"])
    for number, path in enumerate(paths):
        place = (*path.split("/"), "mean") if path else ("mean",)
        leaves[place] = np.full(leaves[place].shape, STEP * number, leaves[place].dtype)
    return {**variables, "batch_stats": unflatten_dict(leaves)}, paths


def _number(moments: Moments) -> int:
    return round(float(moments.running_mean.mean()) / STEP)


def _kind(x: Array) -> tuple:
    return x.shape, x.dtype
