"""The process environment that makes JAX fast on a CPU; imports nothing, so that it can run first."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Mapping

HUGE_PAGES = "glibc.malloc.hugetlb=1"
ONEDNN = ("--xla_cpu_use_onednn=true", "--xla_cpu_experimental_onednn_custom_call=true")
MARK = "SSDKD_JAX_ENVIRONMENT"


def has_accelerator(environment: Mapping[str, str]) -> bool:
    """Whether JAX would find a GPU or TPU: its plugin is installed and CPU is not asked for."""
    if environment.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return False
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")
    return any(importlib.util.find_spec(name) for name in plugins)


def cpu_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to add for a fast CPU run; what the user set is kept.

    Huge pages for the allocator, since XLA:CPU allocates its temporaries anew each call, and
    oneDNN for thin convolutions where this jaxlib was seen to gain by it (Python >= 3.12).
    """
    added = {}
    tunables = environment.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.hugetlb" not in tunables and sys.platform == "linux":
        added["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, HUGE_PAGES)))
    flags = environment.get("XLA_FLAGS", "")
    if "onednn" not in flags and sys.version_info >= (3, 12):
        added["XLA_FLAGS"] = " ".join(filter(None, (flags, *ONEDNN)))
    return added


def can_cache_programs(environment: Mapping[str, str]) -> bool:
    """Whether compiled programs can be stored for the next run: jaxlib cannot serialise oneDNN's custom calls."""
    return ONEDNN[1] not in environment.get("XLA_FLAGS", "")


def prepare() -> None:
    """Restart this script once in the fast CPU environment; call before jax is imported.

    Does nothing where an accelerator is present, or where nothing is to be added.
    """
    if MARK in os.environ or has_accelerator(os.environ):
        return
    added = cpu_environment(os.environ)
    if added:
        settings = " ".join(f"{name}='{value}'" for name, value in added.items())
        print(f"CPU run: restarting with {settings} (SSDKD_JAX_ENVIRONMENT=0 prevents it).", flush=True)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **added, MARK: str(time.time())})


def seconds_since_start() -> float:
    """Wall-clock seconds since the script was started; since `prepare` where it did not restart."""
    return time.time() - _STARTED


def _started() -> float:
    """When the script was started: stamped by `prepare` at the restart, else now."""
    try:
        return float(os.environ[MARK]) or time.time()
    except (KeyError, ValueError):
        return time.time()


_STARTED = _started()
