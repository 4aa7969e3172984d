"""The check of an accelerator, on the CPU: what it reads off programs, its table, and a stage from start to end."""

import json
import subprocess
import sys
from pathlib import Path

import accelerator_check
import hlo
import jax
import jax.numpy as jnp
from jax import lax

SCRIPT = Path(accelerator_check.__file__)


def text(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().as_text()


def test_collectives_are_counted():
    x = jnp.ones((8, 4))
    summed = jax.pmap(lambda x: lax.psum(x, "i"), axis_name="i").lower(x).compile().as_text()
    assert hlo.launches(summed)["collectives"] == 1
    assert hlo.launches(text(lambda x: x + 1, x))["collectives"] == 0


def test_the_body_of_a_loop_is_counted_once():
    def loop(length):
        return lambda x: lax.scan(lambda c, _: (jnp.sort(jnp.sin(c @ c)), None), x, length=length)[0]

    counts = [hlo.launches(text(loop(length), jnp.ones((32, 32))))["kernels"] for length in (7, 50)]
    assert counts[0] == counts[1] > 2


def test_a_step_is_held_against_the_ceilings():
    step = {"seconds": 1e-3, "flops": 1e9, "bytes": 2e9, "kernels": 7, "collectives": 0}
    report = {
        "machine": {"ended": "done", "seconds": 1.0, "tf32_flops": 1e13, "bf16_flops": 2e13, "copy_bytes": 4e12},
        "wrn": {"ended": "done", "seconds": 2.0, "steps": {"step": step}},
        "wrn_bfloat16": {"ended": "done", "seconds": 2.0, "steps": {"step": step}},
        "torch": {"ended": "stopped", "seconds": 3.0},
    }
    table = accelerator_check.table(report)
    assert "| wrn, step | 1.000 | 1.00 | 10.0% | 2000 | 50% | 7 | 0 |" in table
    assert "| wrn_bfloat16, step | 1.000 | 1.00 | 5.0% |" in table
    assert "| torch | stopped | 3 |" in table


def test_a_stage_leaves_what_it_measured(tmp_path):
    command = [sys.executable, str(SCRIPT), f"--out={tmp_path}", "--small", "--stages", "machine", "--patience=4"]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads((tmp_path / "check.json").read_text())["machine"]
    assert found["ended"] == "done"
    assert found["platform"] == "cpu"
    assert found["tf32_flops"] > 0


def test_a_stage_that_takes_too_long_is_stopped(tmp_path):
    found = accelerator_check.run("machine", tmp_path, small=True, limit=0.1)
    assert found["ended"] == "stopped at its limit of 0 s"
