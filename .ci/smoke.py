"""What an installed wheel can do by itself: run from an empty folder, with nothing but the package's own requirements.

A teacher is made, saved, loaded and distilled into a student without any data; a few steps, nothing is learnt.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import subprocess
import sys
import time
from pathlib import Path

os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # of compiled programs: compiling them is most of the time

import jax
import numpy as np

import ssdkd_jax
from ssdkd_jax import build, config, data, errors, presets
from ssdkd_jax.interop import saved

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


def teacher() -> None:
    """An untrained teacher of the zoo, saved."""
    variables = jax.jit(build.network(MODEL, INPUTS).init)(jax.random.key(0))
    saved.save("teacher", variables, saved.note(MODEL, INPUTS))
    found = saved.load("teacher")
    for one, other in zip(jax.tree.leaves(variables), jax.tree.leaves(found.variables), strict=True):
        np.testing.assert_array_equal(one, other)


def distil() -> None:
    """Three lines of Python give a student; a few steps, nothing is learnt."""
    network = ssdkd_jax.Teacher.load("teacher")
    settings = ssdkd_jax.default_config(network, MODEL)
    settings.student.batch = settings.synthesis.batch = 16
    settings.student.regression = 0.0
    settings.synthesis.update(inner_steps=2, width=8)
    settings.buffer.size = 32
    settings.schedule.update(rounds=2, warmup=1, distill_steps=3)
    ssdkd_jax.distill(network, MODEL, settings).student.save("student")


def main() -> None:
    """All of it, in an empty folder."""
    assert not any(Path.cwd().iterdir()), "start in an empty folder"
    installed()
    teacher()
    distil()
    logits = saved.load("student")(np.zeros((2, 16, 16, 1), np.uint8))
    assert logits.shape == (2, 10)
    assert np.isfinite(logits).all()
    command = subprocess.run([Path(sys.executable).with_name("ssdkd"), "--help"], capture_output=True, text=True)
    assert "a student from a teacher, without its data" in command.stdout, command.stderr
    print(f"The wheel works: jax {jax.__version__}, {time.process_time():.0f} processor seconds.")


if __name__ == "__main__":
    main()
