"""A flax NNX module as a `Network`, for teachers and for students, and back.

The module is called as `module(images)`; its layers learn of train and eval mode by `module.train()` and
`module.eval()`, that is by their attributes `deterministic` and `use_running_average`. All work is done on copies: the
user's own object, its values and its mode stay as they are.

Of the floats that a module keeps in an `nnx.Variable`, those of `nnx.Param` are 'params', those of `nnx.BatchStat` are
'batch_stats', and all others are 'constants': no training changes them, and what the module itself writes there is lost
after each call. Integers, random keys and plain arrays are part of the function.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Number
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from ssdkd_jax import losses, models
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import nnx_layers
from ssdkd_jax.types import Array, Key, Network, Variables

STATISTICS = "batch_stats"
COLLECTIONS = {nnx.Param: "params", nnx.BatchStat: STATISTICS}


def network(
    module: nnx.Module,
    image_shape: Sequence[int],
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    axis: str | None = None,
    compute: str = "float32",
) -> tuple[Network, Variables]:
    """An NNX module as a network whose input is normalised by (x - mean) / std, and the weights that it holds.

    Its `init` returns these same weights whatever the key, so that a student starts from what its module holds. Its
    `train` draws by the key alone, also where a Dropout has no stream of its own. Parameters, statistics and logits are
    float32, whatever it computes in.

    Args:
        module: called as `module(images)`, images [B, H, W, D] -> logits [B, C] (dense tasks [B, H, W, C]).
        image_shape: (H, W, D).
        mean, std: one value, or one per channel, in the units of the images.
        axis: pmap axis over which BatchNorm statistics are averaged in `train`.
        compute: 'float32' or 'bfloat16', what the layers compute in.

    Raises:
        InputError: for what is no NNX module, for one that cannot be called on an image, for another `compute`. Of the
            network's functions, flax's InvalidRngError where a layer draws in eval mode, or in train mode with no key.
    """
    _check_module(module)
    if compute not in models.COMPUTE:
        raise InputError(f"compute = '{compute}' is not one of {', '.join(models.COMPUTE)}.")
    shift, scale = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    copy = nnx_layers.watched(module, axis)
    copy.train()
    in_train = _take_apart(copy)
    copy.eval()
    in_eval = _take_apart(copy)

    def narrow(x: Array) -> Array:
        return x if compute == "float32" else x.astype(compute)

    def call(form: _Form, variables: Variables, images: Array, key: Key | None) -> tuple[Array, nnx.Module]:
        narrowed = {**variables, "params": jax.tree.map(narrow, variables["params"])}
        merged = _put_together(form, narrowed, key)
        return losses.widened(merged(narrow((images - shift) / scale))), merged

    def init(key: Key) -> Variables:
        return _values(in_eval)

    def apply(variables: Variables, images: Array) -> Array:
        return call(in_eval, variables, images, None)[0]

    def train(variables: Variables, images: Array, key: Key | None = None) -> tuple[Array, Variables]:
        logits, merged = call(in_train, variables, images, key)
        return logits, {**variables, **_statistics(in_train, merged)}

    found = Network(init, apply, train)
    _check_call(found, module, tuple(image_shape))
    return found, _values(in_eval)


def updated(module: nnx.Module, variables: Variables) -> nnx.Module:
    """A copy of the user's module with these weights, statistics and constants, in eval mode.

    Args:
        module: as given to `network`; it stays as it is.
        variables: as of `network`'s functions, on one device.

    Raises:
        InputError: for what is no NNX module, or for variables that are not of its structure and shapes.
    """
    _check_module(module)
    form = _take_apart(module)
    own, given = ({"/".join(k): v for k, v in flatten_dict(dict(tree)).items()} for tree in (_values(form), variables))
    for place in sorted(own.keys() | given.keys()):
        shapes = [list(np.shape(tree[place])) if place in tree else "nothing" for tree in (own, given)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"The module '{type(module).__name__}' keeps {shapes[0]} at '{place}', but the variables have "
                f"{shapes[1]}; give those of a network of this module."
            )
    copy = nnx.clone(_put_together(form, variables, None, frozen=False))
    copy.eval()
    return copy


class _Part(NamedTuple):
    """A variable of a module, or a plain array.

    Attributes:
        path: of the module's graph.
        value: the nnx.Variable itself, or the array.
        collection: of the network's variables; '' where it is not among them.
        names: of its arrays in that collection.
    """

    path: tuple
    value: Any
    collection: str
    names: tuple[tuple[str, ...], ...]


class _Form(NamedTuple):
    """A module taken apart in one of its modes."""

    graph: nnx.GraphDef
    parts: tuple[_Part, ...]


def _take_apart(module: nnx.Module) -> _Form:
    graph, state = nnx.split(nnx.clone(module))
    parts = []
    for path, value in nnx.to_flat_state(state):
        leaves, names = jax.tree.leaves(value), nnx_layers.names(path)
        numbered = (names,) if len(leaves) == 1 else tuple((*names, str(index)) for index in range(len(leaves)))
        parts.append(_Part(path, value, _collection(value, leaves), numbered))
    return _Form(graph, tuple(parts))


def _collection(value: Any, leaves: Sequence[Any]) -> str:
    numbers = [x for x in leaves if hasattr(x, "dtype") or isinstance(x, Number)]
    inexact = len(numbers) == len(leaves) and all(jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in numbers)
    if not isinstance(value, nnx.Variable) or not inexact:
        return ""
    return next((name for kind, name in COLLECTIONS.items() if isinstance(value, kind)), "constants")


def _nested(placed: dict[tuple[str, ...], Array]) -> Variables:
    return {"params": {}, **unflatten_dict(placed)}


def _values(form: _Form) -> Variables:
    """What the module holds, as new arrays: a caller may donate them."""
    return _nested(
        {
            (part.collection, *names): jnp.array(leaf, jnp.result_type(leaf))
            for part in form.parts
            if part.collection
            for names, leaf in zip(part.names, jax.tree.leaves(part.value), strict=True)
        }
    )


def _put_together(form: _Form, variables: Variables, key: Key | None, frozen: bool = True) -> nnx.Module:
    """A new module of these values.

    Args:
        key: of which every random stream has its share; None: nothing can be drawn where `frozen`.
        frozen: False leaves the streams as they were.
    """
    given = flatten_dict({name: variables.get(name, {}) for name in ("params", STATISTICS, "constants")})
    state = []
    for number, part in enumerate(form.parts):
        leaves = jax.tree.leaves(part.value)
        if part.collection:
            leaves = [jnp.asarray(given[part.collection, *names]) for names in part.names]
        elif isinstance(part.value, nnx.RngKey) and (frozen or key is not None):
            layer = "/".join(part.names[0][:-1])
            leaves = [nnx_layers.stream_key(key, number, layer, leaf.shape) for leaf in leaves]
        state.append((part.path, jax.tree.unflatten(jax.tree.structure(part.value), leaves)))
    return nnx.merge(form.graph, nnx.from_flat_state(state))


def _statistics(form: _Form, module: nnx.Module) -> Variables:
    """The running statistics of a module after its call, in the dtype of those before."""
    after, placed = dict(nnx.to_flat_state(nnx.state(module, nnx.BatchStat))), {}
    for part in form.parts:
        if part.collection == STATISTICS:
            leaves = zip(part.names, jax.tree.leaves(after[part.path]), jax.tree.leaves(part.value), strict=True)
            placed |= {(STATISTICS, *names): leaf.astype(jnp.result_type(before)) for names, leaf, before in leaves}
    return unflatten_dict(placed)


def _check_module(module: Any) -> None:
    if not isinstance(module, nnx.Module):
        said = f"the class {module.__name__}" if isinstance(module, type) else f"a '{type(module).__name__}'"
        raise InputError(
            f"An instance of flax.nnx.Module was expected, not {said}; a linen module goes to models.bind."
        )


def _check_call(found: Network, module: nnx.Module, image_shape: tuple[int, ...]) -> None:
    """Raise InputError where eval mode cannot be traced on one image, or does not answer with one row of logits."""
    images, name = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32), type(module).__name__
    try:
        logits = jax.eval_shape(lambda x: found.apply(found.init(jax.random.key(0)), x), images)
    except InputError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200].rstrip(".")
        remedy = "let `__call__` take images [B, H, W, D] alone, and compute with jax.numpy"
        if isinstance(module, nnx.bridge.ToNNX):
            remedy = "a linen module that also takes `train` goes to models.bind as it is"
        raise InputError(
            f"The NNX module '{name}' cannot be called on images {list(images.shape)} "
            f"({type(error).__name__}: {said}); {remedy}."
        ) from error
    if not hasattr(logits, "shape") or len(logits.shape) < 2 or logits.shape[0] != 1:
        shape = list(logits.shape) if hasattr(logits, "shape") else f"a {type(logits).__name__}"
        raise InputError(
            f"The NNX module '{name}' answers {shape} to images {list(images.shape)}; let it return logits [B, C]."
        )
