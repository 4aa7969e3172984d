"""Several hosts, one run: who they are, and what they do together; with one host everything is immediate.

All hosts run the same program; each holds the rows of its own devices. What a person reads
(plots, logs, summaries) is written by the first.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from ssdkd_jax.errors import InputError


def join(coordinator: str = "", count: int | None = None, host_index: int | None = None) -> None:
    """Join the other hosts of this run; call once, before anything else of JAX.

    What is not given is taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID,
    and otherwise from the cluster (Slurm, Open MPI, Kubernetes, Cloud TPU: whatever this JAX knows).

    Args:
        coordinator: 'address:port' of the first host.
        count: of hosts.
        host_index: this one's, from 0.

    Raises:
        ValueError: where neither arguments, environment nor cluster tell who the hosts are.
    """
    try:
        count, host_index = _given(count, "JAX_NUM_PROCESSES"), _given(host_index, "JAX_PROCESS_ID")
        jax.distributed.initialize(coordinator or None, count, host_index)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"Cannot join the other hosts ({' '.join(str(error).split())}); give --coordinator=ADDRESS:PORT, "
            "--hosts=COUNT and --host=NUMBER, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID."
        ) from error


def _given(value: int | None, name: str) -> int | None:
    return int(os.environ[name]) if value is None and name in os.environ else value


def asked_for(environment: dict[str, str] | os._Environ = os.environ) -> bool:
    """Whether the environment names a coordinator."""
    return "JAX_COORDINATOR_ADDRESS" in environment


def is_first() -> bool:
    """Whether this host writes what a person reads."""
    return jax.process_index() == 0


def wait(name: str) -> None:
    """Until all hosts are here."""
    if not alone():
        multihost_utils.sync_global_devices(name)


def any_of(flag: bool) -> bool:
    """Whether `flag` is set on any host; all of them must ask, and get the same answer."""
    if alone():
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def alone() -> bool:
    """Whether one host runs by itself."""
    return jax.process_count() == 1


def rarely(stop: Callable[[], bool]) -> Callable[[], bool]:
    """`stop` itself where a host runs alone; else what it says at this moment, asked once.

    Hosts agree by a program of their devices, which waits for all that these have to do.
    """
    if alone():
        return stop
    answer = stop()
    return lambda: answer


def concatenated(rows: np.ndarray) -> np.ndarray:
    """The rows of all hosts, in their order, on each of them."""
    return rows if alone() else multihost_utils.process_allgather(rows, tiled=True)
