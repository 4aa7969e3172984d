"""The generator's station: how it starts a round, and what it keeps of one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from ssdkd_jax import models, settings
from ssdkd_jax.engine import optimization
from ssdkd_jax.settings import setting
from ssdkd_jax.types import Array, Key, Network, Variables

HUGE = 50_000_000  # parameters


@settings.section("synthesis")
class Settings:
    """The generator's size and its inner optimiser."""

    latent: int = setting(128, "Z, size of the latent", least=1)
    width: int = setting(64, "channels of the generator's last hidden layer", least=1)
    doublings: int = setting(2, "of its resolution; the image size is a multiple of 2 to this power", least=1)
    lr_generator: float = setting(5e-3, "its Adam's learning rate", above=0)

    def network(self, image_shape: tuple[int, int, int], axis: str | None, compute: str) -> Network:
        """The generator for these images; `axis` and `compute` as of `models.bind`. A warning tells a huge one.

        Raises:
            InputError: where it cannot make images of that size.
        """
        module = models.Generator(tuple(image_shape), self.width, self.doublings)
        network = models.bind(module, (self.latent,), axis=axis, compute=compute)
        if models.parameter_count(jax.eval_shape(network.init, jax.random.key(0))) > HUGE:
            told = models.size("generator", network).removesuffix(".")
            warnings.warn(f"{told}; raise synthesis.doublings, or lower synthesis.latent or width.", stacklevel=2)
        return network

    def adam(self) -> optax.GradientTransformation:
        """Adam (.5, .999), as the GAN literature and all peers have it."""
        return optax.adam(self.lr_generator, b1=0.5)


@settings.section("synthesis")
class StartName:
    """How the generator begins a round."""

    start: str = setting("sequential", "how it begins a round", choices=("sequential", "reptile", "first_order"))


@settings.section("synthesis")
class MetaStart:
    """The outer optimiser of the two meta starts."""

    lr_meta: float | None = setting(1e-2, "of the outer Adam; None: lr_generator x inner_steps", above=0)


@chex.dataclass(frozen=True)
class GeneratorState:
    """What of the generator persists over rounds.

    Attributes:
        variables: the start of the next round.
        opt_state: of the inner optimiser (sequential) or of the outer one (meta starts).
    """

    variables: Variables
    opt_state: Any


class Start(NamedTuple):
    """How the generator of one round becomes the start of the next.

    Attributes:
        init: variables -> GeneratorState.
        open: GeneratorState -> opt_state of this round's inner optimiser.
        close: (GeneratorState, this round's variables, opt_state, summed gradients) -> GeneratorState.
    """

    init: Callable[[Variables], GeneratorState]
    open: Callable[[GeneratorState], Any]
    close: Callable[[GeneratorState, Variables, Any, Any], GeneratorState]


def sequential(inner: optax.GradientTransformation) -> Start:
    """The next round goes on where this one ended, optimiser state included."""
    return Start(
        init=lambda variables: GeneratorState(variables=variables, opt_state=inner.init(variables["params"])),
        open=lambda state: state.opt_state,
        close=lambda state, variables, opt_state, _: GeneratorState(variables=variables, opt_state=opt_state),
    )


def _meta(inner: optax.GradientTransformation, outer: optax.GradientTransformation, gradient: Callable) -> Start:
    """A start that an outer optimiser moves by `gradient(start params, end params, summed gradients)`."""

    def close(state: GeneratorState, variables: Variables, _: Any, summed: Any) -> GeneratorState:
        params = state.variables["params"]
        grads = gradient(params, variables["params"], summed)
        params, opt_state = optimization.descend(outer, grads, state.opt_state, params)
        return GeneratorState(variables={**variables, "params": params}, opt_state=opt_state)

    return Start(
        init=lambda variables: GeneratorState(variables=variables, opt_state=outer.init(variables["params"])),
        open=lambda state: inner.init(state.variables["params"]),
        close=close,
    )


def reptile(inner: optax.GradientTransformation, outer: optax.GradientTransformation) -> Start:
    """Reptile (Nichol et al. 2018): the outer gradient is start - end."""
    return _meta(inner, outer, lambda start, end, _: jax.tree.map(jnp.subtract, start, end))


def first_order(inner: optax.GradientTransformation, outer: optax.GradientTransformation) -> Start:
    """First-order MAML as in Fast-DFKD: the outer gradient is the sum of the inner ones."""
    return _meta(inner, outer, lambda start, end, summed: summed)


STARTS = {"sequential": sequential, "reptile": reptile, "first_order": first_order}


class StartSettings(NamedTuple):
    """Which start a config asks for.

    Attributes:
        kind: one of `STARTS`.
        outer: what it takes beside the inner optimiser: nothing, or the outer one.
    """

    kind: Callable[..., Start]
    outer: tuple[optax.GradientTransformation, ...]

    @classmethod
    def from_config(cls, reader: settings.Reader) -> StartSettings:
        """As configured; ValueError for an unknown name."""
        name = reader(StartName).start
        kind = settings.chosen(STARTS, "synthesis.start", name)
        return cls(kind, () if name == "sequential" else (optax.adam(reader(MetaStart).lr_meta, b1=0.5),))

    def make(self, inner: optax.GradientTransformation) -> Start:
        """The start around an inner optimiser."""
        return self.kind(inner, *self.outer)


def latents(key: Key, codes: Array, size: int, strength: float) -> Array:
    """z ~ N(strength * code, I), the code in the first coordinates: [B, Z]; ours.

    A generator that persists over rounds can then learn which code means which class; with
    strength 0, z ~ N(0, I) and only the inner steps on z can follow the asked class.

    Args:
        codes: [B, C], one-hot targets (C <= Z, where the strength is not 0).
        size: Z.
    """
    batch, classes = codes.shape
    noise = jax.random.normal(key, (batch, size), codes.dtype)
    return noise.at[:, :classes].add(strength * codes) if strength else noise
