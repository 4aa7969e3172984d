"""A PyTorch module as a network of jax: it is traced once, by torch.export, and its operators are run by jax.

Every operator is looked up in a table; PyTorch is not needed once the network is there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ssdkd_jax import models
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import notes
from ssdkd_jax.interop.images import check_shape
from ssdkd_jax.interop.torch_graph import narrower as narrowing
from ssdkd_jax.interop.torch_graph import program as programs
from ssdkd_jax.interop.torch_graph import trace, training
from ssdkd_jax.interop.torch_graph.program import REMEDY, Program, line
from ssdkd_jax.types import Array, Key, Network, Variables

if TYPE_CHECKING:
    import torch

IMAGES, TOLERANCE = 3, 1e-3


def network(
    module: torch.nn.Module, image_shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
) -> tuple[Network, Variables]:
    """A frozen teacher from a PyTorch module, and its weights; the module itself is left as it is.

    It runs in eval mode and in float32. Its logits are compared with PyTorch's before it is returned. The BatchNorms
    that keep running statistics and the linear layers report what they take in, see `observe.report`. `init` gives
    zeros of the weights' shapes.

    Args:
        module: takes [B, D, H, W] and returns logits [B, C], or [B, C, H, W] where it labels pixels.
        image_shape: (H, W, D).
        mean, std: one value, or one per channel, of images in [0, 1].

    Returns:
        The network, which takes images [B, H, W, D] in [0, 1] to logits [B, C] or [B, H, W, C]; and its variables:
        'params', and 'batch_stats' where it has BatchNorms, by PyTorch's dotted names.

    Raises:
        InputError: for a module that does not take such images, returns anything else, cannot be traced for any B,
            or calls an operator that is not known; or where its logits are not PyTorch's.
    """
    images = _examples(image_shape, mean, std)
    shift, scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    frozen = _frozen(module)
    inputs = ((images - shift) / scale).transpose(0, 3, 1, 2)
    expected = _answer(frozen, inputs)
    program, variables = trace.traced(frozen, inputs)
    found = _network(program, variables, image_shape, shift, scale)
    _compare(type(module).__name__, found.apply, variables, images, np.moveaxis(expected, 1, -1))
    frozen_network = models.frozen(found.apply, variables)
    return frozen_network._replace(narrower=found.narrower, as_torch=found.as_torch), variables


def _network(
    program: Program,
    variables: Variables,
    image_shape: Sequence[int],
    shift: Array,
    scale: Array,
    axis: str | None = None,
) -> Network:
    """A program as a network.

    Args:
        variables: of its shapes; what belongs to no layer begins as it is there.
        shift, scale: of its normalisation.
        axis: pmap axis over which its BatchNorms average in training.
    """

    def inputs(images: Array) -> Array:
        check_shape(images.shape, image_shape)
        return jnp.moveaxis(jnp.asarray((images - shift) / scale, jnp.float32), -1, 1)

    def answer(logits: Array) -> Array:
        return jnp.moveaxis(logits, 1, -1).astype(jnp.float32)

    def init(key: Key) -> Variables:
        return training.initial(program, variables, key)

    def apply(variables: Variables, images: Array) -> Array:
        return answer(programs.run(program, variables, inputs(images)))

    def train(variables: Variables, images: Array, key: Key | None = None) -> tuple[Array, Variables]:
        logits, updated = training.train(program, variables, inputs(images), axis)
        return answer(logits), updated

    @cache
    def fewer(share: float) -> tuple[Program, Variables]:
        return narrowing.narrowed(program, variables, (image_shape[-1], *image_shape[:-1]), share)

    def narrower(share: float, axis: str | None, compute: str) -> Network:
        """In float32, as the teacher itself."""
        return _network(*fewer(share), image_shape, shift, scale, axis)

    return Network(init, apply, train, narrower, partial(programs.state_dict, program))


def _examples(image_shape: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """A few random images, [B, H, W, D] in [0, 1]."""
    if len(image_shape) != 3 or any(size != int(size) or size < 1 for size in image_shape):
        raise InputError(f"image_shape = {image_shape} is not (height, width, channels); give three numbers above 0.")
    notes.check_normalisation(mean, std, image_shape[-1], meant=True)
    return np.random.default_rng(0).random((IMAGES, *map(int, image_shape)), np.float32)


def _frozen(module: Any) -> torch.nn.Module:
    """A copy of the module on the CPU, in eval mode and float32."""
    import torch

    if not isinstance(module, torch.nn.Module):
        raise InputError(f"The teacher is a {type(module).__name__} and no torch.nn.Module; give the module itself.")
    try:
        return copy.deepcopy(_unwrapped(module)).to(device="cpu", dtype=torch.float32).eval()
    except Exception as error:
        raise InputError(
            f"The module {type(module).__name__} cannot be copied to float32 on the CPU ({line(error)}); "
            "give it without weight_norm and spectral_norm (remove_weight_norm), as a plain module."
        ) from error


def _unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The module itself, where torch.compile or a wrapper for several devices stands around it."""
    import torch

    wrappers = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    inner = module.module if isinstance(module, wrappers) else getattr(module, "_orig_mod", None)
    return module if inner is None else _unwrapped(inner)


def _answer(module: torch.nn.Module, inputs: np.ndarray) -> np.ndarray:
    """PyTorch's own logits of a few images, if they are logits."""
    import torch

    name, shape = type(module).__name__, list(inputs.shape)
    try:
        with torch.no_grad():
            logits = module(torch.from_numpy(inputs.copy()))
    except Exception as error:
        raise InputError(
            f"The module {name} does not take images [B, D, H, W] = {shape} ({line(error)}); "
            "give the image_shape that it was trained with."
        ) from error
    if not isinstance(logits, torch.Tensor):
        raise InputError(
            f"The module {name} returns a {type(logits).__name__} and not one tensor of logits; wrap it in a module "
            "that returns the logits alone."
        )
    found = list(logits.shape)
    dense = logits.ndim == 4 and found[2:] == shape[2:]
    if found[:1] != shape[:1] or not (logits.ndim == 2 or dense):
        raise InputError(
            f"The module {name} returns {found} for images {shape}; let it return logits [B, C], or [B, C, H, W] of "
            "the images' height and width."
        )
    if not torch.isfinite(logits).all():
        raise InputError(f"The module {name} answers NaN or infinity to images in [0, 1]; look at its weights and std.")
    return logits.float().numpy()


def _compare(
    name: str, apply: Callable[..., Array], variables: Variables, images: np.ndarray, expected: np.ndarray
) -> None:
    """Raise InputError unless the logits are PyTorch's."""
    with jax.default_matmul_precision("highest"):
        logits = np.asarray(jax.jit(apply)(variables, images))
    apart = np.abs(logits - expected).max() if logits.shape == expected.shape else np.inf
    if not apart <= TOLERANCE * np.abs(expected).max():
        raise InputError(
            f"The logits of the module {name} in jax differ from PyTorch's by {apart:.3g}, where the largest is "
            f"{np.abs(expected).max():.3g}; {REMEDY}."
        )
