"""Optimiser steps: of any parameters, and of a network in training, averaged over the devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssdkd_jax.engine import parallel
from ssdkd_jax.types import Array, Key, ModelState, Network

Loss = Callable[[dict], tuple[Array, tuple]]


def sgd(lr: float, steps: int, weight_decay: float, warmup: float) -> optax.GradientTransformation:
    """SGD with Nesterov momentum .9 and torch's coupled weight decay; linear warm-up, cosine towards zero.

    Args:
        lr: the highest learning rate.
        steps: of the whole run.
        warmup: fraction of the steps in which the rate rises.
    """
    rate = learning_rate(lr, steps, warmup)
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum=0.9, nesterov=True))


def adam(lr: float, steps: int, weight_decay: float, warmup: float) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, under the schedule of `sgd`."""
    return optax.adamw(learning_rate(lr, steps, warmup), weight_decay=weight_decay)


def learning_rate(lr: float, steps: int, warmup: float) -> optax.Schedule:
    """Updates made -> rate of the next: it rises in even steps to lr, and then falls as a cosine.

    The zeros of both curves lie outside the run, one step before its first and one after its last: none is wasted.

    Args:
        lr, steps, warmup: as of `sgd`.
    """
    schedule = optax.warmup_cosine_decay_schedule(0.0, lr, max(1, int(warmup * steps)), max(1, steps) + 1)
    return lambda updates: schedule(updates + 1)


def init(network: Network, tx: optax.GradientTransformation, key: Key) -> ModelState:
    """Fresh variables and optimiser state."""
    variables = network.init(key)
    return ModelState(variables=variables, opt_state=tx.init(variables["params"]), step=jnp.zeros((), jnp.int32))


def descend(tx: optax.GradientTransformation, grads: Any, opt_state: Any, params: Any) -> tuple[Any, Any]:
    """(parameters, optimiser state) after one step.

    Optax promotes dtypes implicitly, which it may here even where jax's promotion is set to strict.
    """
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state


def update(
    state: ModelState, tx: optax.GradientTransformation, loss: Loss, axis: str | None
) -> tuple[ModelState, tuple]:
    """One step down `loss`, with gradients and BatchNorm statistics averaged over the devices.

    Args:
        loss: params -> (scalar, (updated variables, *auxiliary)).
        axis: pmap axis name, or None.

    Returns:
        The new state, and the auxiliary values.
    """
    params = state.variables["params"]
    grads, (variables, *auxiliary) = jax.grad(loss, has_aux=True)(params)
    statistics = {name: value for name, value in variables.items() if name != "params"}
    grads, statistics = parallel.mean((grads, statistics), axis)
    params, opt_state = descend(tx, grads, state.opt_state, params)
    variables = {**statistics, "params": params}
    return ModelState(variables=variables, opt_state=opt_state, step=state.step + 1), tuple(auxiliary)
