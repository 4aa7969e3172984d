"""A run killed again and again ends with the bits of one left alone."""

import random
import subprocess

import pytest
from test_scripts import finish, overrides, start

from ssdkd_jax import checkpoint

ROUNDS = 12


def run_of(workdir):
    models = {"teacher__model": "wrn10_1", "student__model": "wrn10_1"}
    arguments = overrides(schedule__rounds=ROUNDS, yardstick_steps=0, teacher__epochs=3, **models)
    return lambda cache: start(cache, "distill.py", f"--workdir={workdir}", *arguments)


def kill_until_done(launch, cache, seed, kills):
    """Start, kill after a random time, start again; the last start is left alone."""
    moments = random.Random(seed)
    for _ in range(kills):
        process = launch(cache)
        try:
            process.communicate(timeout=moments.uniform(4.0, 25.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    code, _, err = finish(launch(cache))
    assert code == 0, err


def arrays(folder):
    number = checkpoint.steps(folder)[-1]
    with checkpoint.ocp.PyTreeCheckpointer() as reader:
        return reader.restore((folder / f"{number:08d}").absolute())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments_the_same_command_ends_with_the_same_bits(tmp_path, seed):
    cache = tmp_path / "cache"
    code, _, err = finish(run_of(tmp_path / "alone")(cache))
    assert code == 0, err
    kill_until_done(run_of(tmp_path / "killed"), cache, seed, kills=5)
    for part in ("teacher", "student", "checkpoints"):
        alone, killed = (arrays(tmp_path / run / part) for run in ("alone", "killed"))
        assert alone.keys() == killed.keys()
        for name in alone:
            assert alone[name].tobytes() == killed[name].tobytes(), f"{part}: {name}"
