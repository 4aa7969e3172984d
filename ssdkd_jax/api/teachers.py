"""The teacher, made from what people own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.core
import flax.linen as nn
import jax
import numpy as np
from flax import nnx

from ssdkd_jax import models
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import nnx_module, notes, saved, torch_import
from ssdkd_jax.interop.saved import Classifier
from ssdkd_jax.models import conformance, observe, shares
from ssdkd_jax.report import progress
from ssdkd_jax.types import Array, Inputs, Network, Variables

if TYPE_CHECKING:
    import torch

NOISE = 16  # images on which a teacher's logits are looked at


class Teacher(Classifier):
    """A frozen network that teaches; called with images, it gives logits.

    Made by `load`, `from_torch`, `from_torch_module`, `from_linen`, `from_nnx` or `from_function`. Each looks at the
    network first, and says in one line what it found. Its fields are those of `Classifier`: `apply`, `variables`,
    `image_shape`, `classes`, `mean`, `std`.

    >>> import flax.linen as nn, jax, jax.numpy as jnp, ssdkd_jax
    >>> weights = jnp.ones((64, 3))
    >>> teacher = ssdkd_jax.Teacher.from_function(
    ...     lambda w, x: x.reshape(len(x), -1) @ w, weights, image_shape=(8, 8, 1)
    ... )
    >>> teacher(jnp.zeros((2, 8, 8, 1))).shape
    (2, 3)
    """

    @property
    def apply(self) -> Callable[[Variables, Array], Array]:
        """(variables, images [B, H, W, D] in [0, 1]) -> logits; the normalisation is inside."""
        return self.network.apply

    @classmethod
    def load(cls, folder: str | Path, model: str | nn.Module | nnx.Module | None = None) -> Teacher:
        """The teacher that `save`, a run, or `ssdkd import` left in a folder.

        Args:
            model: where it is a network of your own, the flax module itself, or 'package.module:Class'.

        Raises:
            InputError: where there is none, or it is damaged or of another model.
        """
        found = saved.load(folder, model)
        return cls._looked_at(found.network, found.variables, found.inputs, found.name, found.note)

    @classmethod
    def from_torch(
        cls,
        path: str | Path,
        *,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        image_size: int | tuple[int, int] = 32,
        model: str | None = None,
        unusual_normalisation: bool = False,
    ) -> Teacher:
        """A PyTorch checkpoint of one of the zoo's networks, recognised by its keys; nothing in the file is run.

        Args:
            path: .pth, .pt (which need PyTorch) or .safetensors.
            mean, std: of the normalisation that it was trained with, of images in [0, 1]; a number per channel, or one.
            image_size: H = W, or (H, W).
            model: its name, one of `models.NAMES`; None recognises it.
            unusual_normalisation: take a mean or std that images in [0, 1] hardly have.

        Raises:
            InputError: for keys that are those of no network of the zoo, or for a normalisation that cannot be.
        """
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        found = torch_import.load(path, size, model)
        inputs = _inputs((*size, found.channels), mean, std, unusual_normalisation, found.classes)
        network = shares.named(found.model, inputs)
        return cls._looked_at(network, found.variables, inputs, found.model)

    @classmethod
    def from_torch_module(
        cls,
        module: torch.nn.Module,
        *,
        image_shape: tuple[int, int, int],
        mean: float | Sequence[float],
        std: float | Sequence[float],
        unusual_normalisation: bool = False,
    ) -> Teacher:
        """A PyTorch network of your own, as it is: its graph becomes a jax function, which runs without PyTorch.

        It cannot be saved, only made again, or exported as .stablehlo.

        Args:
            module: takes images [B, D, H, W], normalised, and answers logits.
            image_shape: (H, W, D).
            mean, std, unusual_normalisation: as of `from_torch`.

        Raises:
            InputError: for an operator that is not known, which is named with where it stands; or where the logits
                are not those of PyTorch.
        """
        from ssdkd_jax.interop import torch_module

        inputs = _inputs(image_shape, mean, std, unusual_normalisation)
        network, variables = torch_module.network(module, inputs.image_shape, inputs.mean, inputs.std)
        return cls._looked_at(network, variables, inputs, f"PyTorch {type(module).__name__}")

    @classmethod
    def from_linen(
        cls,
        module: nn.Module,
        variables: Mapping[str, Any],
        *,
        image_shape: tuple[int, int, int],
        mean: float | Sequence[float],
        std: float | Sequence[float],
        unusual_normalisation: bool = False,
    ) -> Teacher:
        """A linen module, called as `module(images, train)`, and its variables.

        Args:
            variables: 'params' and, where it has any, 'batch_stats'.
            image_shape: (H, W, D).
            mean, std, unusual_normalisation: as of `from_torch`.

        Raises:
            InputError: a line for each reason for which it cannot teach.
        """
        inputs = _inputs(image_shape, mean, std, unusual_normalisation)
        if "params" not in variables:
            raise InputError(f"The variables hold {', '.join(variables)} and no 'params'; give all that `init` made.")
        network = models.bind(module, inputs.image_shape, inputs.mean, inputs.std)
        return cls._looked_at(network, flax.core.unfreeze(dict(variables)), inputs, name_of(module))

    @classmethod
    def from_nnx(
        cls,
        module: nnx.Module,
        *,
        image_shape: tuple[int, int, int],
        mean: float | Sequence[float],
        std: float | Sequence[float],
        unusual_normalisation: bool = False,
    ) -> Teacher:
        """An NNX module, called as `module(images)`; the module itself stays as it is.

        Args:
            image_shape: (H, W, D).
            mean, std, unusual_normalisation: as of `from_torch`.

        Raises:
            InputError: a line for each reason for which it cannot teach.
        """
        inputs = _inputs(image_shape, mean, std, unusual_normalisation)
        network, variables = nnx_module.network(module, inputs.image_shape, inputs.mean, inputs.std)
        return cls._looked_at(network, variables, inputs, name_of(module))

    @classmethod
    def from_function(
        cls,
        apply: Callable[[Any, Array], Array],
        variables: Any,
        *,
        image_shape: tuple[int, int, int],
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        unusual_normalisation: bool = False,
    ) -> Teacher:
        """Any function that jax can trace. Its layers are not seen: BN match and hints are off.

        Args:
            apply: (variables, images [B, H, W, D], normalised) -> logits [B, C], of pixels [B, H, W, C].
            variables: any pytree of arrays.
            image_shape: (H, W, D).
            mean, std, unusual_normalisation: as of `from_torch`; by default images are in [0, 1] as they are.

        Raises:
            InputError: for a function that jax cannot trace, or that is no function of the image alone.
        """
        inputs = _inputs(image_shape, mean, std, unusual_normalisation)
        shift, scale, frozen = np.array(inputs.mean, "f4"), np.array(inputs.std, "f4"), {"params": variables}

        def logits(variables: Variables, images: Array) -> Array:
            return apply(variables["params"], (images - shift) / scale).astype("float32")

        name = f"function {getattr(apply, '__qualname__', type(apply).__name__)}"
        return cls._looked_at(models.frozen(logits, frozen), frozen, inputs, name)

    @classmethod
    def _looked_at(
        cls, network: Network, variables: Variables, inputs: Inputs, name: str, note: Mapping[str, Any] | None = None
    ) -> Teacher:
        """The teacher, once it is found to be one; a line says what it is."""
        faults = conformance.check(network, inputs.image_shape, name, variables, trained=False)
        if faults:
            raise InputError("\n".join(faults))
        images = np.random.default_rng(0).random((NOISE, *inputs.image_shape), np.float32)
        logits = np.asarray(jax.jit(network.apply)(variables, images))
        answered = logits.shape[-1] if logits.ndim in (2, 4) else 0
        if answered < 2 or (inputs.classes and answered != inputs.classes):
            raise InputError(
                f"'{name}' answers {list(logits.shape)} to {NOISE} images; a teacher answers logits [B, C] or, of "
                "pixels, [B, H, W, C], of at least two classes."
            )
        teacher = cls(network, variables, inputs._replace(classes=answered), name, note or {})
        count = len(observe.norm_paths(variables))
        norms = f"{count} BatchNorms" if count else "no BatchNorm that can be seen"
        progress.say(
            f"{teacher!r}: {norms}, images normalised by mean {list(inputs.mean)} and std {list(inputs.std)}, "
            f"logits from {logits.min():.3g} to {logits.max():.3g} on noise."
        )
        return teacher


def name_of(module: Any) -> str:
    """'package.module:Class' of a module."""
    return f"{type(module).__module__}:{type(module).__qualname__}"


def _inputs(
    image_shape: Sequence[int],
    mean: float | Sequence[float],
    std: float | Sequence[float],
    meant: bool,
    classes: int = 0,
) -> Inputs:
    """What a network takes, looked at first; its classes are 0 where they are not known yet."""
    if np.shape(image_shape) != (3,) or min(image_shape) < 1:
        raise InputError(f"image_shape = {image_shape} is not (height, width, channels); write it as (32, 32, 3).")
    shift, scale = (tuple(map(float, np.atleast_1d(moment))) for moment in (mean, std))
    height, width, channels = map(int, image_shape)
    notes.check_normalisation(shift, scale, channels, meant)
    return Inputs((height, width, channels), classes, shift, scale)
