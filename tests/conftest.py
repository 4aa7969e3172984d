"""Eight fake CPU devices for the whole session, set before jax is imported, and the states that tests share."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["SSDKD_JAX_ENVIRONMENT"] = "0"
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",  # compiling is most of a test's time
    )
).strip()

import jax
import numpy as np
import pytest
import tiny

from ssdkd_jax.engine import loop, parallel


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
def single(teacher_variables):
    """A tiny job without a device axis, and the state after one synthesis: (job, state, teacher variables)."""
    job = tiny.job(tiny.make_config(), teacher_variables, axis=None)
    state = tiny.synthesize(job, tiny.first_state(job), teacher_variables)
    return job, state, teacher_variables


@pytest.fixture(scope="session")
def compiled(teacher_variables):
    """A tiny job compiled on eight devices: (job, programs, host state, teacher on the devices)."""
    job = tiny.job(tiny.make_config(), teacher_variables)
    state = tiny.first_state(job)
    teacher = parallel.to_devices(teacher_variables)
    programs = loop.compile_round(job.method, job.step, job.plan, parallel.to_devices(state), teacher)
    return job, programs, jax.tree.map(np.asarray, state), teacher


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Folder of the compiled programs of scripts under test."""
    return tmp_path_factory.mktemp("cache")
