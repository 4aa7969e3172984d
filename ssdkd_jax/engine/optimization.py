"""One optimiser step of a network, averaged over the devices; shared by teacher, student and yardstick."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ssdkd_jax.engine import parallel
from ssdkd_jax.types import Array, Key, ModelState, Network

Loss = Callable[[dict], tuple[Array, tuple]]


def sgd(lr: float, steps: int, weight_decay: float, warmup: float) -> optax.GradientTransformation:
    """SGD with Nesterov momentum .9 and torch's coupled weight decay; linear warm-up, cosine to zero.

    Args:
        lr: the highest learning rate.
        steps: of the whole run.
        warmup: fraction of the steps in which the rate rises from 0.
    """
    schedule = optax.warmup_cosine_decay_schedule(0.0, lr, max(1, int(warmup * steps)), max(2, steps))
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum=0.9, nesterov=True))


def init(network: Network, tx: optax.GradientTransformation, key: Key) -> ModelState:
    """Fresh variables and optimiser state."""
    variables = network.init(key)
    return ModelState(variables=variables, opt_state=tx.init(variables["params"]), step=jnp.zeros((), jnp.int32))


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
    updates, opt_state = tx.update(grads, state.opt_state, params)
    variables = {**statistics, "params": optax.apply_updates(params, updates)}
    return ModelState(variables=variables, opt_state=opt_state, step=state.step + 1), tuple(auxiliary)
