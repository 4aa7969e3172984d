"""The stages of accelerator_check.py, each a process: python experiments/device_stages.py STAGE OUT [small].

What a stage has measured lies in OUT after each measurement.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAIRS = {"wrn": "wrn40_2_wrn16_1", "resnet": "resnet34_resnet18"}
TESTS = ("losses", "guard", "generator", "bfloat16", "modulation", "replay_buffer", "flops")  # little to compile
WORKERS = 6  # of the tests, at most
CALLS = 5  # that a median is taken over

Tell = Callable[[dict[str, Any]], None]


def machine(tell: Tell, small: bool) -> None:
    """Versions, the device, and its ceilings: matrix products in float32 (TF32 where there is any) and bf16, a copy."""
    import jax
    import jax.numpy as jnp

    from ssdkd_jax.report.machine import versions

    device, side = jax.local_devices()[0], 256 if small else 8192
    tell({"platform": device.platform, "device": device.device_kind, "devices": jax.local_device_count()})
    tell({"versions": versions(), "memory": (device.memory_stats() or {}).get("bytes_limit")})
    for name, dtype in (("tf32", jnp.float32), ("bf16", jnp.bfloat16)):
        a, b = (jax.random.normal(jax.random.key(seed), (side, side), dtype) for seed in (0, 1))
        tell({f"{name}_flops": 2 * side**3 / seconds(jax.jit(jnp.matmul), a, b)})
    x = jax.random.normal(jax.random.key(0), (2**20 if small else 2**30,))
    tell({"copy_bytes": 2 * x.nbytes / seconds(jax.jit(lambda x: x + 1), x)})
    tell({"launch_seconds": seconds(jax.jit(lambda x: x + 1), jnp.zeros(()))})


def seconds(call: Callable, *arguments: Any) -> float:
    """Of a call, averaged over as many as take long enough; after two that are not counted."""
    import jax

    jax.block_until_ready([call(*arguments) for _ in range(2)])
    calls, taken = 1, 0.0
    while taken < 0.2:
        calls *= 2
        start = time.perf_counter()
        for _ in range(calls):
            result = call(*arguments)
        jax.block_until_ready(result)
        taken = time.perf_counter() - start
    return taken / calls


def pair(name: str, compute: str, tell: Tell, small: bool) -> None:
    """Steps of a pair on synthetic images: inversion and distillation, many and one a dispatch.

    FLOPs are those of the lowered step, since the compiled one hides cuDNN's.
    """
    import cost
    import jax

    from ssdkd_jax import build
    from ssdkd_jax.engine import dispatch, loop, parallel
    from ssdkd_jax.report import machine
    from ssdkd_jax.run import profiling

    config = pair_config(name, compute, small)
    inputs = build.Inputs((32, 32, 3), 10, (0.5,) * 3, (0.25,) * 3)
    network = build.network(config.teacher.model, inputs, compute=compute)
    variables = network.init(jax.random.key(0))
    job, teacher = build.job(config, inputs, network, variables), parallel.to_devices(variables)
    state, start = profiling.first_state(job, 0), time.perf_counter()
    begun, ones = loop.compile_round(job.method, job.step, job.plan, state, teacher), one_by_one(job, state, teacher)
    flops = cost.flops(config, inputs)
    programs, ones = loop.Programs(*dispatch.wait(begun)), dispatch.wait(ones)
    tell({"compile_seconds": time.perf_counter() - start})
    state, _ = loop.synthesize(programs, state, teacher)
    steps: dict[str, dict] = {}

    def measured(what: str, how: str, repeat: dispatch.Repeat, carry: Any, *fixed: Any, **counted: Any) -> Any:
        taken, carry = profiling.seconds_per_call(lambda carry: repeat(carry, *fixed)[0], carry, CALLS)
        steps[what + how] = {"seconds": taken / repeat.times, "flops": flops[what], **counted}
        tell({"steps": steps, "peak_bytes": machine.peak_device_memory_bytes()})
        return carry

    measured("inversion", " in the run", programs.invert, programs.begin(state), teacher, state.student.variables)
    state = measured("distillation", " in the run", programs.distill, state, teacher)
    (invert, distill), (of_invert, of_distill) = ones, [read_off(one.dispatch.many) for one in ones]
    given = programs.begin(state), teacher, state.student.variables
    measured("inversion", ", 1 a dispatch", invert, *given, **of_invert)
    measured("distillation", ", 1 a dispatch", distill, state, teacher, **of_distill)


def one_by_one(job: Any, state: Any, teacher: Any) -> list:
    """The steps of inversion and of distillation that go to the device one at a time, being compiled."""
    import jax

    from ssdkd_jax.engine import dispatch, loop

    programs = loop.round_programs(job.method, job.step, job.plan)
    work = jax.eval_shape(programs.begin, state)
    ones = [
        dispatch.Repeat(dispatch.Dispatch(1, repeat.dispatch.one, repeat.dispatch.one), times=5)
        for repeat in (programs.invert, programs.distill)
    ]
    return dispatch.compile_aside([(ones[0], (work, teacher, state.student.variables)), (ones[1], (state, teacher))])


def pair_config(name: str, compute: str, small: bool) -> Any:
    """The config of a pair of the paper; small: with tiny networks and batches."""
    from ssdkd_jax import recipes

    config = recipes.cifar("cifar10", PAIRS[name])
    config.compute = compute
    if small:
        config.update_from_flattened_dict(
            {"teacher.model": "wrn10_1", "student.model": "wrn10_1", "student.batch": 16, "synthesis.batch": 16}
            | {"synthesis.width": 8, "buffer.size": 32, "views.count": 1, "schedule.distill_steps": 5}
        )
    return config


def read_off(program: Any) -> dict[str, float]:
    """Bytes that a compiled step moves as XLA counts them, its kernels and its collectives."""
    import hlo

    return {"bytes": (program.cost_analysis() or {}).get("bytes accessed"), **hlo.launches(program.as_text())}


def torch(tell: Tell, small: bool) -> None:
    """The same students' steps in PyTorch, eager, with TF32 and in bfloat16."""
    try:
        import torch_step
    except ImportError as error:
        tell({"skipped": str(error)})
        return
    steps: dict[str, dict] = {}
    for student in ("wrn16_1", "resnet18"):
        for compute in ("float32", "bfloat16"):
            steps[f"{student} {compute}"] = {"seconds": torch_step.seconds(student, compute, 16 if small else 256)}
            tell({"steps": steps})


def digits(tell: Tell, small: bool) -> None:
    """configs/digits.py from start to end, with its images of scikit-learn."""
    out = Path(sys.argv[2]).parent / "digits"
    short = ["--config.schedule.rounds=7", "--config.teacher.epochs=2"] if small else []
    command = [sys.executable, "-m", "ssdkd_jax", "distill", "--config=configs/digits.py", f"--workdir={out}", *short]
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=HERE.parent)
    found = json.loads((out / "summary.json").read_text())
    tell({"process_seconds": time.perf_counter() - start})
    tell({name: found.get(name) for name in ("teacher_accuracy", "student_accuracy")} | {"parts": found["seconds"]})


def tests(tell: Tell, small: bool) -> None:
    """The tests of the numerics, on this machine's device; side by side where pytest-xdist is installed."""
    import importlib.util
    import os

    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the tests need the memory
    import jax

    files = [f"tests/test_{name}.py" for name in (TESTS[:1] if small else TESTS)]
    environment = {**os.environ, "SSDKD_TEST_PLATFORM": jax.default_backend().replace("gpu", "cuda")}
    workers = ["-n", str(min(WORKERS, os.cpu_count() or 1))] if importlib.util.find_spec("xdist") else []
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers, *files]
    done = subprocess.run(command, cwd=HERE.parent, env=environment, text=True, stdout=subprocess.PIPE, check=False)
    print(done.stdout)
    tell({"tests": done.stdout.strip().splitlines()[-1]})
    sys.exit(done.returncode)


STAGES: dict[str, Callable[[Tell, bool], None]] = {
    "machine": machine,
    **{name: lambda tell, small, name=name: pair(name, "float32", tell, small) for name in PAIRS},
    **{f"{name}_bfloat16": lambda tell, small, name=name: pair(name, "bfloat16", tell, small) for name in PAIRS},
    "torch": torch,
    "digits": digits,
    "tests": tests,
}


def main(name: str, out: str, *small: str) -> None:
    """Run a stage."""
    from ssdkd_jax.engine import files

    found: dict[str, Any] = {}

    def tell(news: dict[str, Any]) -> None:
        found.update(news)
        files.write_json(Path(out), found)

    STAGES[name](tell, bool(small))


if __name__ == "__main__":
    main(*sys.argv[1:])
