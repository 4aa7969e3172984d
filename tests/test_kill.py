"""Runs killed at random moments, each gone on with by the same command, end with the bits of one left alone."""

import random
import signal
import subprocess
import time

import pytest
from test_scripts import finish, overrides, start

from ssdkd_jax.engine import checkpoint, preemption

SHORT = {"schedule.rounds": 12, "schedule.distill_steps": 6, "schedule.checkpoint_seconds": 1.0, "teacher.epochs": 2}
ARGUMENTS = {
    "tiny": overrides(schedule__rounds=12, teacher__epochs=3, yardstick_steps=0),
    "quickstart": [f"--config.{name}={value}" for name, value in (SHORT | {"yardstick_steps": 0}).items()],
}


def launch(workdir, cache, networks):
    return start(cache, "distill.py", f"--workdir={workdir}", *ARGUMENTS[networks])


def interrupt(process, how, seconds):
    """Send the signal after `seconds`; whether the process was still there to be hit."""
    try:
        code = process.wait(seconds)
        assert code == 0, process.communicate()[1]
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(how)
    sent = time.monotonic()
    _, err = process.communicate(timeout=60)
    if how == signal.SIGTERM and process.returncode != 0:  # 0: it was writing its last line
        assert process.returncode == preemption.EXIT_CODE, err
        assert time.monotonic() - sent < 10
        assert "Traceback" not in err
    return True


def arrays(folder):
    path = (folder / f"{checkpoint.steps(folder)[-1]:08d}").absolute()
    checkpoint.verify(path)
    return {name: value.tobytes() for name, value in checkpoint.read(path).items()}


def assert_same(run, alone):
    for part in ("teacher", "student", "checkpoints"):
        assert arrays(run / part) == arrays(alone / part), part


@pytest.mark.slow
@pytest.mark.parametrize("networks", ARGUMENTS)
@pytest.mark.parametrize(("how", "times"), [(signal.SIGKILL, 30), (signal.SIGTERM, 10)])
def test_interrupted_at_random_moments_a_run_ends_with_the_same_bits(tmp_path, how, times, networks):
    cache, alone, moments = tmp_path / "cache", tmp_path / "alone", random.Random(0)
    for workdir in (tmp_path / "compiles", alone):
        started = time.monotonic()
        code, _, err = finish(launch(workdir, cache, networks))
        assert code == 0, err
    seconds, number = time.monotonic() - started, 0
    while times:
        process = launch(tmp_path / f"run{number}", cache, networks)
        hit = interrupt(process, how, moments.uniform(0.1, 0.9) * seconds)
        times -= hit
        if not hit:
            assert_same(tmp_path / f"run{number}", alone)
            number += 1
    code, _, err = finish(launch(tmp_path / f"run{number}", cache, networks))
    assert code == 0, err
    assert_same(tmp_path / f"run{number}", alone)
