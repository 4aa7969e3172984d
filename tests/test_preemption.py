"""SIGTERM, the lock of a run's folder, and what is wrong with a disk."""

import signal
import subprocess
import sys
import time

import pytest

from ssdkd_jax.engine import preemption, workdir

POLLS = """
import time
from ssdkd_jax.engine import preemption
preemption.install()
print("ready", flush=True)
while not preemption.requested():
    time.sleep(0.01)
print("saved", flush=True)
raise SystemExit(preemption.EXIT_CODE)
"""
STUCK = """
import hashlib
from ssdkd_jax.engine import preemption
preemption.GRACE_SECONDS = 0.1
preemption.install()
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes in C, during which no handler of Python runs
"""


def terminated(program):
    """(exit code, what else it printed, stderr) of a Python program that gets SIGTERM once it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_loop_that_asks_saves_and_exits_with_the_code_of_its_own():
    assert terminated(POLLS) == (75, "saved\n", "")
    assert preemption.EXIT_CODE not in (0, 1, -signal.SIGTERM, 128 + signal.SIGTERM)


def test_a_process_that_cannot_answer_is_ended_with_the_same_code():
    code, out, err = terminated(STUCK)
    assert (code, out) == (75, "")
    assert err == "Stopped by SIGTERM; the same command goes on from the newest checkpoint.\n"


def test_a_folder_is_one_processs_at_a_time(tmp_path):
    with (
        workdir.claim(tmp_path / "run"),
        pytest.raises(ValueError, match=r"--workdir=.*run is in use by process \d+ on .*; wait for it, or choose"),
    ):
        workdir.claim(tmp_path / "run")
    workdir.claim(tmp_path / "run").close()


def test_the_lock_goes_with_its_process_however_it_ends(tmp_path):
    program = (
        f"from pathlib import Path; from ssdkd_jax.engine import workdir; lock = workdir.claim(Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", f"{program}; print(1, flush=True); import time; time.sleep(600)"],
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    with pytest.raises(ValueError, match=f"in use by process {process.pid} on"):
        workdir.claim(tmp_path)
    process.kill()
    process.communicate()
    time.sleep(0.01)
    workdir.claim(tmp_path).close()


def test_a_folder_that_cannot_be_written_and_a_full_disk_are_told_apart(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as unwritable:
        workdir.claim(tmp_path / "file" / "run")
    assert workdir.explain(unwritable.value) == (
        f"'{tmp_path}/file/run' cannot be written (Not a directory); choose a folder that you may write to."
    )
    with pytest.raises(OSError) as full, open("/dev/full", "w") as file:
        file.write("x")
    assert workdir.explain(full.value).startswith("The disk is full ([Errno 28] No space left on device)")
    assert workdir.explain(ValueError("As it is.")) == "As it is."
