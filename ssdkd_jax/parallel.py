"""The one file that knows about devices.

Random numbers are drawn for the global batch from a key that all devices share, and each
device works on its own rows of them; so a run on eight devices draws what a run on one
draws. With `axis=None` every function is the identity of its single-device meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import jax_utils
from jax import lax

from ssdkd_jax.types import Array, Sharded, named_leaves

AXIS = "devices"


def mean(tree: Any, axis: str | None) -> Any:
    """Average of each leaf over the devices."""
    return tree if axis is None else lax.pmean(tree, axis)


def total(tree: Any, axis: str | None) -> Any:
    """Sum of each leaf over the devices."""
    return tree if axis is None else lax.psum(tree, axis)


def device_count(axis: str | None) -> int:
    """Devices along `axis`; 1 without one."""
    return 1 if axis is None else lax.axis_size(axis)


def own_rows(x: Array, axis: str | None) -> Array:
    """This device's rows of a global array: [B, ...] -> [B / devices, ...]."""
    if axis is None:
        return x
    rows = x.shape[0] // lax.axis_size(axis)
    return lax.dynamic_slice_in_dim(x, lax.axis_index(axis) * rows, rows)


def all_rows(x: Array, axis: str | None) -> Array:
    """The inverse of `own_rows`: the rows of all devices, on each of them."""
    return x if axis is None else lax.all_gather(x, axis, tiled=True)


def own_gradient(grads: Any, axis: str | None) -> Any:
    """Gradient of the global mean loss with respect to what only this device holds.

    Differentiating a per-device mean under pmap gives the gradient of the *sum* over
    devices; the global loss is their mean.
    """
    return jax.tree.map(lambda g: g / device_count(axis), grads)


def _local(slots: Array, rows: int, axis: str | None) -> Array:
    """Global slot numbers as positions in this device's shard; `rows` where it is not ours."""
    if axis is None:
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
    if axis is None:
        return shard[slots]
    rows = jnp.take(shard, _local(slots, shard.shape[0], axis), axis=0, mode="fill", fill_value=0)
    return lax.psum_scatter(rows, axis, scatter_dimension=0, tiled=True)


def put_rows(shard: Array, slots: Array, rows: Array, axis: str | None) -> Array:
    """Write this device's `rows` [B / devices, ...] to the global `slots` [B] of a sharded array."""
    local = _local(slots, shard.shape[0], axis)
    return shard.at[local].set(all_rows(rows, axis).astype(shard.dtype), mode="drop")


def _is_sharded(x: Any) -> bool:
    return isinstance(x, Sharded)


def to_devices(tree: Any) -> Any:
    """Place a state on the local devices: `Sharded` parts split, all else replicated.

    Raises:
        ValueError: when the rows of a `Sharded` part do not divide by the devices.
    """
    count = jax.local_device_count()

    def split(x: Array) -> Array:
        if x.shape[0] % count:
            raise ValueError(
                f"{x.shape[0]} rows cannot be split over {count} devices; pad them with parallel.padded first."
            )
        return x.reshape(count, x.shape[0] // count, *x.shape[1:])

    def place(x: Any) -> Any:
        if _is_sharded(x):
            parts = jax.tree.map(split, x)
            return jax.pmap(lambda t: t)(parts)
        return jax_utils.replicate(x)

    return jax.tree.map(place, tree, is_leaf=_is_sharded)


def to_host(tree: Any) -> Any:
    """The inverse of `to_devices`, as numpy arrays (sharded rows keep their padding)."""

    def fetch(x: Any) -> Any:
        if _is_sharded(x):
            return jax.tree.map(lambda a: np.asarray(a).reshape(a.shape[0] * a.shape[1], *a.shape[2:]), x)
        return np.asarray(jax_utils.unreplicate(x))

    return jax.tree.map(fetch, tree, is_leaf=_is_sharded)


def not_finite(tree: Any) -> list[str]:
    """Names of the leaves that hold a NaN or an infinity on the first device; `Sharded` parts are left out."""
    copies = {
        name: leaf.addressable_shards[0].data
        for name, leaf in named_leaves(tree, is_leaf=_is_sharded).items()
        if not _is_sharded(leaf)
    }
    return [name for name, finite in jax.device_get(_finite(copies)).items() if not finite]


@jax.jit
def _finite(leaves: dict[str, Array]) -> dict[str, Array]:
    return {name: jnp.isfinite(leaf).all() for name, leaf in leaves.items()}


def padded(rows: int) -> int:
    """The smallest row count >= `rows` that divides by the local devices."""
    count = jax.local_device_count()
    return -(-rows // count) * count


def check_batch(name: str, batch: int) -> None:
    """Raise ValueError where the global batch `name` does not divide by the local devices."""
    count = jax.local_device_count()
    if batch % count:
        raise ValueError(f"{name} = {batch} does not divide by the {count} devices; use a multiple of {count}.")


def pmap(function: Callable, donate: tuple[int, ...] = ()) -> Callable:
    """`jax.pmap` over the local devices under the package's axis name."""
    return jax.pmap(function, axis_name=AXIS, donate_argnums=donate)


def once(function: Callable) -> Callable:
    """`jax.jit` for what runs a single time, such as initialisation: compiled quickly rather than well."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


class Repeat(NamedTuple):
    """A step to run `times` times: (carry, *fixed) -> (carry, metrics over time, see `fetch`).

    The place that decides how many steps one dispatch holds: all of them, scanned, on an
    accelerator; one on a CPU, where XLA runs a convolution inside a scan 45-90 times slower.
    """

    program: Callable
    times: int
    scanned: bool

    def __call__(self, carry: Any, *fixed: Any) -> tuple[Any, Any]:
        if self.scanned:
            return self.program(carry, *fixed)
        history = []
        for _ in range(self.times):
            carry, metrics = self.program(carry, *fixed)
            history.append(metrics)
        return carry, history


def repeat(step: Callable, times: int) -> Repeat:
    """`step` (carry, *fixed) -> (carry, metrics), to be run `times` times with the carry donated."""
    scanned = jax.default_backend() != "cpu"

    def scan(carry: Any, *fixed: Any) -> tuple[Any, Any]:
        return lax.scan(lambda c, _: step(c, *fixed), carry, length=times)

    return Repeat(pmap(scan if scanned else step, donate=(0,)), times, scanned)


def compile_together(programs: Sequence[tuple[Callable | Repeat, tuple]]) -> list[Callable]:
    """Compile (program, example arguments or their shapes) pairs at once, one thread each.

    The results take arguments of exactly those shapes, and so never compile again.
    """
    lowered = [(p.program if isinstance(p, Repeat) else p).lower(*arguments) for p, arguments in programs]
    with ThreadPoolExecutor(len(lowered)) as pool:
        compiled = list(pool.map(lambda program: program.compile(), lowered))
    return [
        p._replace(program=done) if isinstance(p, Repeat) else done
        for (p, _), done in zip(programs, compiled, strict=True)
    ]


def fetch(history: Any) -> dict[str, np.ndarray]:
    """The metrics of `Repeat` on the host: name -> [times]."""
    if isinstance(history, list):
        history = jax.device_get([unreplicate(metrics) for metrics in history])
        return {name: np.stack([metrics[name] for metrics in history]) for name in history[0]}
    return jax.device_get(unreplicate(history))


unreplicate = jax_utils.unreplicate
