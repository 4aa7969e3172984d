"""Networks: linen modules, found by name, and bound to plain functions of their variables.

A classifier (of images or of pixels) of the user's own is any linen module called as `module(images, train)`. Where it
has a field `axis_name`, its BatchNorm is averaged over devices through it. `conformance.check` says whether it serves.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssdkd_jax import losses
from ssdkd_jax.engine import parallel
from ssdkd_jax.errors import InputError
from ssdkd_jax.models import conformance, deeplab, mobilenetv2, resnet, vgg, wrn
from ssdkd_jax.models.dcgan import Generator
from ssdkd_jax.models.widths import narrowed
from ssdkd_jax.types import Array, Key, Network, Variables

__all__ = ["Generator", "bind", "by_name", "conformance", "flops", "frozen", "parameter_count", "size"]

ZOO: dict[str, Callable[..., nn.Module]] = {**resnet.ZOO, **vgg.ZOO, **mobilenetv2.ZOO, **deeplab.ZOO}
MOST_DEPTH, MOST_WIDTH = 100, 32  # of a WRN
COMPUTE = ("float32", "bfloat16")
OWN = "own"  # the name of a network that was handed over in Python
NAMES = (*ZOO, "wrn10_1", "wrn16_1", "wrn16_2", "wrn28_10", "wrn40_1", "wrn40_2")


def by_name(name: str, classes: int) -> nn.Module:
    """The classifier called `name`, one of `NAMES` or a 'wrnDEPTH_WIDTH' of a depth 6 n + 4.

    Args:
        name: of the zoo; or 'package.module:Class', the user's own, called with `classes=classes` and found in
            the working folder or on Python's path.

    Raises:
        ValueError: for an unknown name, with the nearest known one; for a WRN beyond any that could be trained;
            or where the user's own cannot be imported.
    """
    if ":" in name:
        made = _imported(name)
        try:
            inspect.signature(made).bind(classes=classes)
        except TypeError as error:
            raise InputError(
                f"The model '{name}' is not made by `classes={classes}` alone ({error}); hand the module itself over "
                "in Python."
            ) from error
        return made(classes=classes)
    if name in ZOO:
        return ZOO[name](classes=classes)
    if of_zoo(name):
        return wrn.WideResNet(*_wrn_size(name), classes=classes)
    if name == OWN:
        raise InputError("The model 'own' was handed over in Python; name it as 'package.module:Class' here.")
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0)[0]
    raise InputError(f"Unknown model '{name}'; did you mean '{near}'? Known: {', '.join(NAMES)} (any wrnDEPTH_WIDTH).")


def of_zoo(name: str) -> bool:
    """Whether a name is one of the zoo's, and not of a network of one's own."""
    return name in ZOO or re.fullmatch(r"wrn[0-9]+_[0-9]+", name) is not None


def _wrn_size(name: str) -> tuple[int, int]:
    """(depth, width), neither of them more than one would wait for."""
    if len(name) <= len("wrn100_100"):
        depth, width = wrn.parse(name)
        if depth <= MOST_DEPTH and 1 <= width <= MOST_WIDTH:
            return depth, width
    raise InputError(
        f"The WRN '{name[:30]}' is not one of a depth of at most {MOST_DEPTH} and a width of 1 to {MOST_WIDTH}; "
        "name a smaller one."
    )


def _imported(name: str) -> Callable[..., nn.Module]:
    """The attribute of a module that is looked for on Python's path, and last in the working folder."""
    module, _, attribute = name.partition(":")
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name):
        raise InputError(f"'{name}' names no model; write it as 'package.module:Class'.")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        lacking = error.name or ""
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{lacking}."):
            remedy = f"it is not in the working folder {folder} nor on Python's path: start where it is"
        else:
            remedy = f"its own file asks for '{lacking}': install or mend that"
        raise InputError(
            f"Cannot import model '{name}' ({error}); {remedy}, and write it as 'package.module:Class'."
        ) from error
    if not hasattr(found, attribute):
        there = [key for key, value in vars(found).items() if isinstance(value, type) and issubclass(value, nn.Module)]
        raise InputError(
            f"Cannot import model '{name}' ({found.__file__} has no '{attribute}', but {', '.join(there) or 'none'}); "
            "write it as 'package.module:Class'."
        )
    return getattr(found, attribute)


def bind(
    module: nn.Module,
    input_shape: Sequence[int],
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    axis: str | None = None,
    compute: str = "float32",
) -> Network:
    """A linen module as a `Network`, its input normalised by (x - mean) / std.

    Parameters, BatchNorm statistics and outputs are float32, whatever it computes in.

    Args:
        module: called as `module(inputs, train)`.
        input_shape: of one input, (H, W, D) or (Z,).
        mean, std: one value, or one per channel, in the units of the inputs.
        axis: pmap axis over which BatchNorm statistics are averaged in `train`.
        compute: 'float32' or 'bfloat16', what the layers compute in.

    Raises:
        ValueError: for another `compute`.
    """
    if compute not in COMPUTE:
        raise InputError(f"compute = '{compute}' is not one of {', '.join(COMPUTE)}.")
    shift, scale = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)

    def init(key: Key) -> Variables:
        return jax.jit(lambda k: module.init(k, jnp.zeros((1, *input_shape), jnp.float32), False))(key)

    def narrow(x: Array) -> Array:
        return x if compute == "float32" else x.astype(compute)

    def arguments(variables: Variables, inputs: Array) -> tuple[Variables, Array]:
        params = jax.tree.map(narrow, variables["params"])
        return {**variables, "params": params}, narrow((inputs - shift) / scale)

    def apply(variables: Variables, inputs: Array) -> Array:
        return losses.widened(module.apply(*arguments(variables, inputs), False))

    def train(variables: Variables, inputs: Array, key: Key | None = None) -> tuple[Array, Variables]:
        rngs = {} if key is None else {"params": key}  # flax's fallback for every name that a layer asks for
        synced = module.clone(axis_name=parallel.shared(axis)) if axis and hasattr(module, "axis_name") else module
        outputs, updated = synced.apply(*arguments(variables, inputs), True, mutable=["batch_stats"], rngs=rngs)
        return losses.widened(outputs), {**variables, **updated}

    def narrower(share: float, axis: str | None, compute: str) -> Network:
        return bind(narrowed(module, share, input_shape), input_shape, mean, std, axis, compute)

    return Network(init, apply, train, narrower)


def frozen(apply: Callable[[Variables, Array], Array], variables: Variables) -> Network:
    """A network that is never trained, from its function; its `init` gives zeros of the shapes of its variables."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype), variables)

    def init(key: Key) -> Variables:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def train(variables: Variables, inputs: Array, key: Key | None = None) -> tuple[Array, Variables]:
        raise InputError("A frozen teacher is not trained; give the student a network of its own.")

    return Network(init, apply, train)


def parameter_count(variables: Variables) -> int:
    """Number of trainable scalars."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def flops(network: Network, variables: Variables, image_shape: Sequence[int]) -> float:
    """Floating-point operations for an image, see `operations`."""
    return operations(network.apply, variables, jax.ShapeDtypeStruct((1, *image_shape), "float32"))


def operations(function: Callable, *arguments: Any) -> float:
    """Floating-point operations of a call, as XLA counts them (a multiplication and an addition are two).

    Counted for the CPU, so that they are the same on all devices: XLA tells none for an accelerator. NaN where
    JAX_PLATFORMS leaves the CPU out.

    Args:
        arguments: or their shapes.
    """
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return math.nan
    shapes = jax.eval_shape(lambda *given: given, *arguments)
    with jax.default_device(cpu):
        counted = jax.jit(function).lower(*shapes).cost_analysis() or {}
    return float(counted.get("flops", math.nan))


def size(name: str, network: Network) -> str:
    """How many parameters a network has, and which of its parts has most, in one sentence; nothing is computed."""
    variables = jax.eval_shape(network.init, jax.random.key(0))
    parts = {part: parameter_count({"params": params}) for part, params in variables["params"].items()}
    if not parts:
        return f"The {name} has no parameters."
    largest = max(parts, key=parts.get)
    return f"The {name} has {sum(parts.values()):,} parameters, {parts[largest]:,} of them in '{largest}'."
