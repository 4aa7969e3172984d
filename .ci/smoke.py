"""What an installed wheel can do by itself: run from an empty folder, with nothing but the package's own requirements.

A teacher is made, saved, loaded and distilled into a student without any data; a few steps, nothing is learnt.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
import time
from pathlib import Path

os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # of compiled programs: compiling them is most of the time

import jax
import numpy as np

import ssdkd_jax
from ssdkd_jax import build, config, data, errors, presets
from ssdkd_jax.engine import loop, parallel
from ssdkd_jax.interop import saved
from ssdkd_jax.report import progress

INPUTS = build.Inputs((16, 16, 1), 10, (0.3,), (0.35,))
MODEL = "wrn10_1"


def installed() -> None:
    """The package is the installed one, whole, and of real data it says what to install."""
    package = Path(ssdkd_jax.__file__).parent
    assert package.is_relative_to(sys.prefix), f"{package} is not of {sys.prefix}"
    assert (package / "py.typed").is_file()
    for module in pkgutil.walk_packages(ssdkd_jax.__path__, "ssdkd_jax."):
        if not module.name.startswith("ssdkd_jax.data."):
            importlib.import_module(module.name)
    for name in presets.PRESETS:
        config.check(presets.apply(config.default(), name))
    if importlib.util.find_spec("sklearn") is None:
        try:
            data.load("digits")
        except errors.MissingError as error:
            assert "ssdkd_jax[data]" in str(error)
        else:
            raise AssertionError("data.load('digits') without scikit-learn")


def teacher() -> saved.Saved:
    """An untrained teacher of the zoo, saved and loaded."""
    variables = jax.jit(build.network(MODEL, INPUTS).init)(jax.random.key(0))
    saved.save("teacher", variables, saved.note(MODEL, INPUTS))
    found = saved.load("teacher")
    for one, other in zip(jax.tree.leaves(variables), jax.tree.leaves(found.variables), strict=True):
        np.testing.assert_array_equal(one, other)
    return found


def distil(network: saved.Saved) -> dict:
    """The variables of a student that was distilled from the network."""
    settings = config.default()
    settings.teacher.model = settings.student.model = MODEL
    settings.student.batch = settings.synthesis.batch = 16
    settings.synthesis.update(inner_steps=2, width=8, latent=16, adv=0.0)
    settings.buffer.size = 32
    settings.views.count = 0
    settings.schedule.update(rounds=2, warmup=1, distill_steps=3)
    job = build.job(settings, INPUTS, network.network, network.variables)
    first = jax.jit(lambda: loop.init(job.method, job.network, job.tx, settings.seed))()
    state, fixed = parallel.to_devices(first), parallel.to_devices(network.variables)
    programs = loop.compile_round(job.method, job.step, job.plan, state, fixed)
    state, _ = loop.run(programs, job.plan, state, fixed, progress.Stopwatch(), lambda *_: None)
    assert loop.position(state).finished(job.plan)
    return parallel.to_host(state.student.variables)


def main() -> None:
    """All of it, in an empty folder."""
    assert not any(Path.cwd().iterdir()), "start in an empty folder"
    installed()
    network = teacher()
    saved.save("student", distil(network), saved.note(MODEL, INPUTS))
    logits = saved.load("student")(np.zeros((2, 16, 16, 1), np.uint8))
    assert logits.shape == (2, 10)
    assert np.isfinite(logits).all()
    print(f"The wheel works: jax {jax.__version__}, {time.process_time():.0f} processor seconds.")


if __name__ == "__main__":
    main()
