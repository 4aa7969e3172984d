"""The one file that knows about devices.

Random numbers are drawn for the global batch from a key that all devices share, and each
device works on its own rows of them; so a run on eight devices draws what a run on one
draws. With `axis=None`, or one device along the axis, every function is the identity of its
single-device meaning, and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import jax_utils
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ssdkd_jax.engine import hosts
from ssdkd_jax.engine.trees import named_leaves
from ssdkd_jax.errors import InputError
from ssdkd_jax.types import Array, Key, Sharded

AXIS = "devices"


def device_count(axis: str | None) -> int:
    """Devices along `axis`; 1 without one."""
    return 1 if axis is None else lax.axis_size(axis)


def shared(axis: str | None) -> str | None:
    """`axis` where several devices are along it, else None."""
    return axis if device_count(axis) > 1 else None


def mean(tree: Any, axis: str | None) -> Any:
    """Average of each leaf over the devices."""
    axis = shared(axis)
    return tree if axis is None else lax.pmean(tree, axis)


def total(tree: Any, axis: str | None) -> Any:
    """Sum of each leaf over the devices."""
    axis = shared(axis)
    return tree if axis is None else lax.psum(tree, axis)


def local_rows(x: Array, axis: str | None) -> Array:
    """This device's rows of a global array: [B, ...] -> [B / devices, ...]."""
    if shared(axis) is None:
        return x
    chex.assert_is_divisible(x.shape[0], device_count(axis))
    rows = x.shape[0] // device_count(axis)
    return lax.dynamic_slice_in_dim(x, lax.axis_index(axis) * rows, rows)


def all_rows(x: Array, axis: str | None) -> Array:
    """The inverse of `local_rows`: the rows of all devices, on each of them."""
    return x if shared(axis) is None else lax.all_gather(x, axis, tiled=True)


def local_key(key: Key, axis: str | None) -> Key:
    """A key of this device alone, for layers that draw, as Dropout: eight devices draw other numbers than one."""
    return key if axis is None else jax.random.fold_in(key, lax.axis_index(axis))


def local_gradient(grads: Any, axis: str | None) -> Any:
    """Gradient of the global mean loss with respect to what only this device holds.

    Differentiating a per-device mean under pmap gives the gradient of the *sum* over
    devices; the global loss is their mean.
    """
    return jax.tree.map(lambda g: g / device_count(axis), grads)


def _local(slots: Array, rows: int, axis: str | None) -> Array:
    """Global slot numbers as positions in this device's shard; `rows` where it is not ours."""
    if shared(axis) is None:
        return slots
    local = slots - lax.axis_index(axis) * rows
    return jnp.where((local >= 0) & (local < rows), local, rows)


def take_rows(shard: Array, slots: Array, axis: str | None) -> Array:
    """Rows `slots` of an array that is sharded over the devices.

    Args:
        shard: [N / devices, ...], this device's part.
        slots: int [B], the global batch, the same on all devices.

    Returns:
        [B / devices, ...], this device's rows of the batch.
    """
    if shared(axis) is None:
        return shard[slots]
    rows = jnp.take(shard, _local(slots, shard.shape[0], axis), axis=0, mode="fill", fill_value=0)
    return lax.psum_scatter(rows, axis, scatter_dimension=0, tiled=True)


def put_rows(shard: Array, slots: Array, rows: Array, axis: str | None) -> Array:
    """Write this device's `rows` [B / devices, ...] to the global `slots` [B] of a sharded array."""
    local = _local(slots, shard.shape[0], axis)
    return shard.at[local].set(all_rows(rows, axis).astype(shard.dtype), mode="drop")


def _is_sharded(x: Any) -> bool:
    return isinstance(x, Sharded)


def total_devices() -> int:
    """Devices of the run, over all hosts."""
    return jax.local_device_count() * jax.process_count()


def local_parts(x: Array) -> Array:
    """The rows of this host's devices: [M, ...] over all devices -> [devices here, M / devices, ...].

    Raises:
        ValueError: when the rows do not divide by the devices.
    """
    if x.shape[0] % total_devices():
        raise InputError(
            f"{x.shape[0]} rows cannot be split over {total_devices()} devices; pad them with parallel.padded first."
        )
    here = jax.local_device_count()
    return x.reshape(total_devices(), x.shape[0] // total_devices(), *x.shape[1:])[jax.process_index() * here :][:here]


def copied(tree: Any) -> Any:
    """Copies of arrays on the devices, placed as these are: a step may take the memory of its arguments."""
    return jax.tree.map(lambda x: jax.device_put(jnp.copy(x), x.sharding), tree)


def to_devices(tree: Any) -> Any:
    """Place a state on the devices of this host: its share of `Sharded` parts, and all else replicated.

    Raises:
        ValueError: when the rows of a `Sharded` part do not divide by the devices.
    """

    def place(x: Any) -> Any:
        if _is_sharded(x):
            parts = jax.tree.map(local_parts, x)
            return jax.pmap(lambda t: t)(parts)
        return jax_utils.replicate(x)

    return jax.tree.map(place, tree, is_leaf=_is_sharded)


def _rows_here(parts: Array) -> np.ndarray:
    """This host's rows of a part that is split over its devices: [devices, n, ...] -> [devices * n, ...]."""
    return np.asarray(parts).reshape(parts.shape[0] * parts.shape[1], *parts.shape[2:])


def to_host(tree: Any) -> Any:
    """The inverse of `to_devices`, as numpy arrays, the same on all hosts (sharded rows keep their padding)."""
    return _fetched(tree, lambda parts: hosts.concatenated(_rows_here(parts)))


def to_save(tree: Any) -> Any:
    """As `to_host`; with several hosts, `Sharded` parts stay on their devices, as arrays that orbax writes together."""
    if jax.process_count() == 1:
        return to_host(tree)
    over_all = NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec(AXIS))
    return _fetched(tree, lambda parts: jax.make_array_from_process_local_data(over_all, _rows_here(parts)))


def _fetched(tree: Any, rows: Callable[[Array], Any]) -> Any:
    def fetch(x: Any) -> Any:
        return jax.tree.map(rows, x) if _is_sharded(x) else np.asarray(jax_utils.unreplicate(x))

    return jax.tree.map(fetch, tree, is_leaf=_is_sharded)


def check_replicated(tree: Any) -> None:
    """Raise RuntimeError, which names the first leaf that is not the same on all devices of all hosts.

    `Sharded` parts are left out.
    """
    leaves = {name: x for name, x in named_leaves(tree, is_leaf=_is_sharded).items() if not _is_sharded(x)}
    same = jax_utils.unreplicate(pmap(_same_everywhere)(leaves))
    for name, equal in jax.device_get(same).items():
        if not equal:
            raise RuntimeError(
                f"'{name}' differs between devices at the end of the run, which should not happen; "
                "its results are not to be trusted: please report it."
            )


def _same_everywhere(leaves: dict[str, Array]) -> dict[str, Array]:
    return {name: jnp.all(lax.pmin(x, AXIS) == lax.pmax(x, AXIS)) for name, x in leaves.items()}


def not_finite(tree: Any) -> list[str]:
    """Names of the leaves that hold a NaN or an infinity on the first device; `Sharded` parts are left out."""
    copies = {
        name: leaf.addressable_shards[0].data
        for name, leaf in named_leaves(tree, is_leaf=_is_sharded).items()
        if not _is_sharded(leaf)
    }
    if not copies or _all_finite(copies):
        return []
    return [name for name, leaf in copies.items() if not jnp.isfinite(leaf).all()]


@jax.jit
def _all_finite(leaves: dict[str, Array]) -> Array:
    return jnp.concatenate([jnp.isfinite(leaf).ravel() for leaf in leaves.values()]).all()


def padded(rows: int) -> int:
    """The smallest row count >= `rows` that divides by the devices."""
    return -(-rows // total_devices()) * total_devices()


def check_batch(name: str, batch: int) -> None:
    """Raise ValueError where the global batch `name` does not divide by the devices."""
    if batch % total_devices():
        raise InputError(
            f"{name} = {batch} does not divide by the {total_devices()} devices; use a multiple of {total_devices()}."
        )


def pmap(function: Callable, donate: tuple[int, ...] = ()) -> Callable:
    """`jax.pmap` over the devices of all hosts under the package's axis name."""
    return jax.pmap(function, axis_name=AXIS, donate_argnums=donate)


def quick_jit(function: Callable) -> Callable:
    """`jax.jit` for what runs a single time, such as initialisation: compiled quickly rather than well."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


unreplicate = jax_utils.unreplicate
