"""The process environment that makes JAX fast; imports nothing but Python's own, so that it can run first."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Mapping

HUGE_PAGES = "glibc.malloc.hugetlb=1"
ONEDNN = ("--xla_cpu_use_onednn=true", "--xla_cpu_experimental_onednn_custom_call=true")
NO_YNNPACK = ("--xla_cpu_experimental_ynn_fusion_type=",)
LEVEL = "xla_backend_optimization_level", 1  # compiles a fifth quicker than XLA's own 3, and the steps are as fast
MARK = "SSDKD_JAX_ENVIRONMENT"


def has_accelerator(environment: Mapping[str, str]) -> bool:
    """Whether JAX would find a GPU or TPU: its plugin is installed and CPU is not asked for."""
    if environment.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return False
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")
    return any(importlib.util.find_spec(name) for name in plugins)


def cpu_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to add for a fast CPU run; what the user set is kept.

    Huge pages for the allocator, since XLA:CPU allocates its temporaries again each call; what this jaxlib was seen to
    gain by; and `LEVEL`.
    """
    added = {}
    tunables = environment.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.hugetlb" not in tunables and sys.platform == "linux":
        added["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, HUGE_PAGES)))
    flags, groups = environment.get("XLA_FLAGS", ""), (helpful_flags(), ("--{}={}".format(*LEVEL),))
    more = [flag for group in groups if not any(one.split("=")[0] in flags for one in group) for flag in group]
    if more:
        added["XLA_FLAGS"] = " ".join(filter(None, (flags, *more)))
    return added


def compiler_options(platform: str) -> dict[str, int]:
    """`LEVEL` for the compiler of a CPU where XLA_FLAGS name none, as in a process that `prepare` has not restarted."""
    name, level = LEVEL
    return {name: level} if platform == "cpu" and name not in os.environ.get("XLA_FLAGS", "") else {}


def helpful_flags() -> tuple[str, ...]:
    """XLA's flags for this jaxlib: oneDNN for thin convolutions (Python >= 3.12), or no fusions for YNNPACK (0.10)."""
    if sys.version_info >= (3, 12):
        return ONEDNN
    knows = importlib.metadata.version("jaxlib").startswith("0.10.")  # an unknown flag ends the process
    return NO_YNNPACK if knows else ()


def can_cache_programs(environment: Mapping[str, str]) -> bool:
    """Whether compiled programs can be stored for the next run: jaxlib cannot serialise oneDNN's custom calls."""
    return ONEDNN[1] not in environment.get("XLA_FLAGS", "")


def cache_folder(environment: Mapping[str, str]) -> str:
    """The folder of compiled programs, made where it is not there: JAX's own variable, or the user's cache.

    Raises:
        OSError: where it cannot be written, or the user has no home (a container may run as a bare number).
    """
    folder = environment.get("JAX_COMPILATION_CACHE_DIR", "")
    if "://" in folder:
        return folder
    if not folder:
        user = environment.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        folder = os.path.join(user, "ssdkd_jax")
        if not os.path.isabs(folder):
            raise OSError("there is no home directory")
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return folder


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
