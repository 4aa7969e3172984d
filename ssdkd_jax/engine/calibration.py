"""The student as it is judged and saved: its weights, with BatchNorm statistics renewed for them.

In training the running statistics trail the weights by some ten steps, and where images are blended they are of
blended ones. So batches of images as they are go through the student while its weights rest, as in PyTorch's
`update_bn` for averaged weights. What trailing statistics cost: Wu & Johnson, "Rethinking 'Batch' in BatchNorm", 2021.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ssdkd_jax.engine import keys, parallel
from ssdkd_jax.types import Array, Method, Network, TrainState, Variables


def make_pass(
    method: Method, network: Network, last: int, axis: str | None
) -> Callable[[Variables, TrainState, Variables, Array], Variables]:
    """(student's variables, state, teacher variables, batch index) -> student's variables after one batch more.

    The batch is drawn as at step `last` of the student; parameters stay.
    """

    def run(variables: Variables, state: TrainState, teacher: Variables, index: Array) -> Variables:
        key, key_layers = jax.random.split(keys.of_stage(state.key, keys.Stage.CALIBRATION, index))
        batch = method.sample(state.method, teacher, jnp.int32(last), key)
        _, renewed = network.train(variables, batch.images, parallel.local_key(key_layers, axis))
        statistics = {name: value for name, value in renewed.items() if name != "params"}
        return {**parallel.mean(statistics, axis), "params": variables["params"]}

    return run


def make(method: Method, network: Network, last: int, batches: int) -> Callable[[TrainState, Variables], Variables]:
    """(state, teacher variables), both placed on the devices -> the student's variables, renewed; the state stays.

    Args:
        last: the student's steps in the whole run.
        batches: how many; a BatchNorm of momentum .9 then keeps .9 to this power of what it had. 0 leaves it all.
    """
    program = parallel.pmap(make_pass(method, network, last, parallel.AXIS))

    def calibrated(state: TrainState, teacher: Variables) -> Variables:
        variables = state.student.variables
        for index in range(batches):
            indices = np.full(jax.local_device_count(), index, np.int32)
            variables = jax.block_until_ready(program(variables, state, teacher, indices))
        return variables

    return calibrated
