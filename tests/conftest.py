"""The devices of the session, set before jax is imported, and the states that tests share.

By default they are eight fake devices on the CPU; `SSDKD_TEST_DEVICES` asks for another number of those, and
`SSDKD_TEST_PLATFORM`, as JAX_PLATFORMS, for an accelerator.
"""

import gc
import os

import quick

PLATFORM = os.environ.get("SSDKD_TEST_PLATFORM", "cpu")
XLA_FLAGS = {
    "cpu": (
        f"--xla_force_host_platform_device_count={os.environ.get('SSDKD_TEST_DEVICES', 8)}",
        quick.FLAGS,
    ),
    "cuda": ("--xla_gpu_deterministic_ops=true",),  # some tests compare bits
}
CACHED = {"jax_persistent_cache_min_compile_time_secs": 0.0, "jax_persistent_cache_min_entry_size_bytes": -1}

os.environ["JAX_PLATFORMS"] = PLATFORM if PLATFORM == "cpu" else f"{PLATFORM},cpu"  # callbacks need the CPU too
os.environ["SSDKD_JAX_ENVIRONMENT"] = "0"
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *XLA_FLAGS.get(PLATFORM, ()))).strip()
if PLATFORM != "cpu":
    os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"  # some tests compare with numpy
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # scripts under test need memory of their own

import calls
import jax
import numpy as np
import pytest
import tiny

from ssdkd_jax.engine import dispatch, loop, parallel

gc.set_threshold(100_000)  # programs are many objects that stay, and are looked through at each collection


def pytest_runtest_setup(item):
    """Skip what the devices of this session cannot run."""
    if item.get_closest_marker("eight_devices") and jax.local_device_count() < 8:
        pytest.skip(f"needs eight devices; here are {jax.local_device_count()}")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Folder of the session's compiled programs, those of its scripts too: each is compiled once by all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "programs"
    for name, value in {**CACHED, "jax_compilation_cache_dir": str(folder)}.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)
    return folder


@pytest.fixture
def rng():
    """Numpy's generator, seeded."""
    return np.random.default_rng(0)


@pytest.fixture
def one_device(monkeypatch):
    """The package sees a single device, although the session has eight."""
    tiny.use_devices(monkeypatch, 1)


@pytest.fixture(scope="session")
def teacher_variables():
    """Weights of a tiny teacher whose running BatchNorm statistics are not the initial ones."""
    return tiny.teacher_variables()


@pytest.fixture(scope="session")
def teacher(teacher_variables):
    """The tiny teacher as the library's calls take it."""
    return calls.teacher(teacher_variables)


@pytest.fixture(scope="session")
def single(teacher_variables):
    """A tiny job without a device axis, and the state after one synthesis: (job, state, teacher variables)."""
    job = tiny.job(tiny.make_config(), teacher_variables, axis=None)
    state = tiny.synthesize(job, tiny.first_state(job), teacher_variables)
    return job, state, teacher_variables


@pytest.fixture(scope="session")
def compiled(teacher_variables):
    """A tiny job compiled on all devices: (job, programs, host state, teacher on the devices)."""
    job = tiny.job(tiny.make_config(), teacher_variables)
    state = tiny.first_state(job)
    teacher = parallel.to_devices(teacher_variables)
    begun = loop.compile_round(job.method, job.step, job.plan, parallel.to_devices(state), teacher)
    programs = loop.Programs(*dispatch.wait(begun))
    return job, programs, jax.tree.map(np.asarray, state), teacher
