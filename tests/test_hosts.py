"""Two processes of two fake devices each, on loopback, against one process of four."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from test_scripts import ROOT, environment, overrides

from ssdkd_jax.engine import checkpoint, hosts

ARGUMENTS = overrides(student__batch=16, synthesis__batch=16, buffer__size=42, schedule__checkpoint_seconds=1e9)

SAVES = """
import sys
from ssdkd_jax.engine import hosts
hosts.join(sys.argv[1], 2, int(sys.argv[2]))
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ssdkd_jax.engine import checkpoint
place = NamedSharding(Mesh(np.array(jax.devices()), ("devices",)), PartitionSpec("devices"))
rows = np.arange(8, dtype=np.float32).reshape(4, 2)
for scale in (1, 2):
    spread = jax.make_array_from_callback(rows.shape, place, lambda index: scale * rows[index])
    checkpoint.save(sys.argv[3], 1, {"rows": spread, "n": np.int32(scale)}, {"at": scale}, keep=1)
"""


def launch(cache, devices, workdir, *flags, **fields):
    variables = environment(cache)
    variables["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices}"
    variables |= {name: str(value) for name, value in fields.items()}
    command = [sys.executable, "experiments/distill.py", "--config=configs/digits.py", f"--workdir={workdir}"]
    return subprocess.Popen(
        [*command, *ARGUMENTS, *flags],
        env=variables,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port():
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def together(cache, workdir, by_environment, *flags):
    """Run two hosts to their end: [(exit code, stdout, stderr)]."""
    address, processes = f"localhost:{free_port()}", []
    for number in range(2):
        named = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": 2, "JAX_PROCESS_ID": number}
        given = [f"--coordinator={address}", "--hosts=2", f"--host={number}"]
        processes.append(
            launch(cache, 2, workdir, *flags, **named) if by_environment else launch(cache, 2, workdir, *given, *flags)
        )
    ended = [process.communicate(timeout=900) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, ended, strict=True)]


def arrays(folder):
    path = checkpoint.newest(folder)
    checkpoint.verify(path)
    return checkpoint.read(path)


@pytest.mark.slow
def test_two_hosts_end_with_the_parameters_of_one_and_resume_as_one(tmp_path):
    cache = tmp_path / "cache"
    alone = launch(cache, 4, tmp_path / "one")
    _, err = alone.communicate(timeout=900)
    assert alone.returncode == 0, err
    (first, second) = together(cache, tmp_path / "two", by_environment=False)
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert "student_accuracy" in first[1]
    assert "student_accuracy" not in second[1]  # the first alone writes
    assert "distillation" not in second[2]
    for part in ("teacher", "student", "checkpoints"):
        one, two = (arrays(tmp_path / run / part) for run in ("one", "two"))
        assert one.keys() == two.keys()
        for name in one:
            if name.endswith("images"):  # rounded to uint8
                assert np.abs(one[name][:42].astype(int) - two[name][:42]).max() <= 1
            else:
                np.testing.assert_allclose(two[name], one[name], rtol=1e-3, atol=1e-4, err_msg=f"{part}: {name}")
    one, two = (json.loads((tmp_path / run / "summary.json").read_text()) for run in ("one", "two"))
    assert two["student_accuracy"] == pytest.approx(one["student_accuracy"], abs=0.005)
    assert len(one["devices"]) == len(two["devices"]) == 4
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1

    again = together(cache, tmp_path / "two", by_environment=True)  # from the folder that the two have written
    assert [code for code, *_ in again] == [0, 0], again[0][2] + again[1][2]
    os.remove(tmp_path / "two" / "summary.json")
    single = launch(cache, 1, tmp_path / "two")
    _, err = single.communicate(timeout=900)
    assert single.returncode == 0, err
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["curve"] == two["curve"]


def test_two_hosts_write_a_checkpoint_together_and_supersede_it(tmp_path):
    address, folder = f"localhost:{free_port()}", tmp_path / "sweep[1]"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SAVES, address, str(number), str(folder)], env=environment(tmp_path), stderr=-1
        )
        for number in range(2)
    ]
    for process in processes:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    step, values, note = checkpoint.restore(folder, {"rows": rows, "n": np.int32(0)})
    assert (step, note, values["n"]) == (1, {"at": 2}, 2)
    np.testing.assert_array_equal(values["rows"], 2 * rows)
    assert [path.name for path in folder.iterdir()] == ["step_00000001.1"]


def test_hosts_are_asked_for_by_the_environment():
    assert not hosts.asked_for({})
    assert hosts.asked_for({"JAX_COORDINATOR_ADDRESS": "a:1"})


def test_one_host_does_everything_at_once():
    hosts.wait("nobody")
    rows = np.arange(3)
    assert hosts.is_first()
    assert hosts.any_of(True) and not hosts.any_of(False)
    assert hosts.concatenated(rows) is rows
