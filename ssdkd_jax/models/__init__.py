"""Networks: linen modules, found by name, and bound to plain functions of their variables.

A classifier (of images or of pixels) of the user's own is any linen module called as `module(images, train)`. Where it
has a field `axis_name`, its BatchNorm is averaged over devices through it.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssdkd_jax import losses
from ssdkd_jax.errors import InputError
from ssdkd_jax.models import deeplab, mobilenetv2, resnet, vgg, wrn
from ssdkd_jax.models.dcgan import Generator
from ssdkd_jax.types import Array, Key, Network, Variables

__all__ = ["Generator", "bind", "by_name", "parameter_count"]

ZOO: dict[str, Callable[..., nn.Module]] = {**resnet.ZOO, **vgg.ZOO, **mobilenetv2.ZOO, **deeplab.ZOO}
COMPUTE = ("float32", "bfloat16")
NAMES = (*ZOO, "wrn10_1", "wrn16_1", "wrn16_2", "wrn28_10", "wrn40_1", "wrn40_2")


def by_name(name: str, classes: int) -> nn.Module:
    """The classifier called `name`, one of `NAMES` or a 'wrnDEPTH_WIDTH' of any depth 6 n + 4 and any width.

    Args:
        name: of the zoo; or 'package.module:Class', the user's own, called with `classes=classes`.

    Raises:
        ValueError: for an unknown name, with the nearest known one.
    """
    if ":" in name:
        return _imported(name)(classes=classes)
    if name in ZOO:
        return ZOO[name](classes=classes)
    if (size := wrn.parse(name)) is not None:
        return wrn.WideResNet(*size, classes=classes)
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0)[0]
    raise InputError(f"Unknown model '{name}'; did you mean '{near}'? Known: {', '.join(NAMES)} (any wrnDEPTH_WIDTH).")


def _imported(name: str) -> Callable[..., nn.Module]:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"Cannot import model '{name}' ({error}); write it as 'package.module:Class'.") from error


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
    if axis is not None and hasattr(module, "axis_name"):
        module = module.clone(axis_name=axis)
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

    def train(variables: Variables, inputs: Array) -> tuple[Array, Variables]:
        outputs, updated = module.apply(*arguments(variables, inputs), True, mutable=["batch_stats"])
        return losses.widened(outputs), {**variables, **updated}

    return Network(init, apply, train)


def parameter_count(variables: Variables) -> int:
    """Number of trainable scalars."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
