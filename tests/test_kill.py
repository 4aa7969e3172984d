"""Saves that are cut short leave the last good checkpoint; runs that are killed end with the bits of one left alone."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
from test_scripts import finish, overrides, start

from ssdkd_jax.engine import checkpoint, preemption

COMMON = """
import os, resource, shutil, signal, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from ssdkd_jax.engine import checkpoint, workdir

def tree(scale):
    return {"w": scale + np.random.default_rng(0).random(50_000).astype(np.float32), "n": np.int32(scale)}

folder = Path(sys.argv[1])
"""
KILLED = """
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink")

def kill_at(change):
    seen = []
    def hook(event, args):
        if event in CHANGES or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)):
            seen.append(event)
            if len(seen) == change:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

status, change = 1, 0
while status:
    change += 1
    copied = shutil.copytree(folder, folder.with_name(f"killed{change}"))
    child = os.fork()
    if not child:
        kill_at(change)
        end = checkpoint.begin(copied, 2, tree(3), {"at": 3}, keep=1)
        ThreadPoolExecutor(1).submit(end).result()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
"""
FULL = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in (0, 60, 100, 200, 300, 500, 1000, 5000, 100_000):
    for step in (2, 3):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            checkpoint.save(folder, step, tree(3), {"at": 3}, keep=1)
        except OSError as error:
            print(workdir.explain(error))
"""
UNWRITABLE = """
checkpoint.save(folder.parent / "warm", 1, tree(0))
if os.geteuid() == 0:  # whom permissions do not stop
    os.setuid(65534)
for attempt in (lambda: checkpoint.save(folder, 2, tree(3), keep=1), lambda: workdir.claim(folder)):
    try:
        attempt()
    except OSError as error:
        print(workdir.explain(error))
"""


def tree(scale):
    return {"w": scale + np.random.default_rng(0).random(50_000).astype(np.float32), "n": np.int32(scale)}


@pytest.fixture
def two(tmp_path):
    """A folder with checkpoints 1 and 2."""
    for step in (1, 2):
        checkpoint.save(tmp_path / "two", step, tree(step), {"at": step})
    return tmp_path / "two"


def lines(program, folder):
    """What a program prints that is started with this folder."""
    command = [sys.executable, "-c", COMMON + program, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def restored(folder):
    """The scale of the tree that a folder gives back, which is whole."""
    step, values, note = checkpoint.restore(folder, tree(0))
    assert step == 2
    assert tiny.tree_equal(values, tree(note["at"]))
    return note["at"]


def test_killed_between_any_two_changes_of_the_disk_a_save_leaves_the_checkpoint_before_or_its_own(two):
    lines(KILLED, two)
    folders = sorted(two.parent.glob("killed*"), key=lambda folder: int(folder.name.removeprefix("killed")))
    found = [restored(folder) for folder in folders]
    assert found == sorted(found)
    assert found.count(2) > 5
    assert found.count(3) > 5
    for folder in folders:
        checkpoint.save(folder, 3, tree(3), keep=1)
        assert [path.name for path in folder.rglob("*.json")] == ["manifest.json"]
        assert all(path.name == "step_00000003" or not any(path.iterdir()) for path in folder.iterdir())


def test_without_room_the_checkpoints_before_stay_also_that_of_the_same_number(two):
    said = lines(FULL, two)
    assert len(said) == 18
    assert all(line.startswith("The disk is full ([Errno 27] File too large") for line in said)
    assert restored(two) == 2
    assert sorted(path.name for path in two.iterdir()) == ["step_00000001", "step_00000002"]


def test_in_a_folder_that_may_not_be_written_the_checkpoints_before_stay():
    with tempfile.TemporaryDirectory() as place:  # which others may enter, unlike those of pytest
        os.chmod(place, 0o755)
        folder = Path(place, "run")
        checkpoint.save(folder, 2, tree(2), {"at": 2})
        folder.chmod(0o555)
        said = lines(UNWRITABLE, folder)
        assert len(said) == 2
        assert all("cannot be written (Permission denied); choose a folder that you may" in line for line in said)
        assert restored(folder) == 2
        assert [path.name for path in folder.iterdir()] == ["step_00000002"]
        folder.chmod(0o755)


def test_where_a_file_takes_the_place_of_the_folder_it_stays(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        checkpoint.save(tmp_path / "run", 2, tree(3))
    assert (tmp_path / "run").read_text() == "mine"


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
    path = checkpoint.newest(folder)
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
