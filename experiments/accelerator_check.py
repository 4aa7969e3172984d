"""One command for a machine with an accelerator and no network: what it is, how fast the steps are, and that all works.

    python experiments/accelerator_check.py --out=runs/accelerator

    machine          versions; a large matmul and a copy, the ceilings that steps are held against
    wrn, resnet      CIFAR pairs of the paper on synthetic images: seconds a step, one and many steps a dispatch,
                     FLOPs and bytes over time, kernels and collectives of the compiled step; each also in bfloat16
    torch            PyTorch's step of the same students, where torch is installed
    digits           configs/digits.py from start to end
    tests            the tests of the numerics on the device

Each stage is a process of its own with a time limit, 8 minutes in all, and check.json holds what it has measured so far
when it is stopped. --stages chooses; --small takes sizes for a CPU.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
NO_FUSION_TUNING = "--xla_gpu_experimental_enable_fusion_autotuner=false"  # compiling takes minutes with it
LIMITS = {  # seconds
    "machine": 20,
    "wrn": 75,
    "wrn_bfloat16": 105,
    "resnet": 70,
    "resnet_bfloat16": 70,
    "torch": 35,
    "digits": 80,
    "tests": 25,
}


def main() -> None:
    """Run the stages one after the other, and print a table."""
    asked = arguments()
    asked.out.mkdir(parents=True, exist_ok=True)
    report = {}
    for name in asked.stages:
        report[name] = run(name, asked.out, asked.small, asked.patience * LIMITS[name])
        (asked.out / "check.json").write_text(json.dumps(report, indent=1) + "\n")
        print(f"{name}: {report[name]['ended']} after {report[name]['seconds']:.0f} s", flush=True)
    text = table(report)
    (asked.out / "check.md").write_text(text)
    print(text)


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of check.json, check.md and each stage's log")
    parser.add_argument("--stages", nargs="+", default=list(LIMITS), choices=list(LIMITS))
    parser.add_argument("--small", action="store_true", help="sizes for a CPU")
    parser.add_argument("--patience", type=float, default=1.0, help="multiplies the stages' limits")
    return parser.parse_args()


def run(name: str, out: Path, small: bool, limit: float) -> dict:
    """What a stage found in at most `limit` seconds, how it ended, and after how many seconds."""
    found, start = out / f"{name}.json", time.perf_counter()
    found.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / "device_stages.py"), name, str(found), *(["small"] if small else [])]
    paths = (str(HERE.parent), os.environ.get("PYTHONPATH", ""))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if name.endswith("bfloat16") and importlib.metadata.version("jaxlib").startswith("0.11."):
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {NO_FUSION_TUNING}"
    with (out / f"{name}.log").open("w") as log:
        try:
            code = subprocess.run(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, timeout=limit, check=False
            ).returncode
            ended = "done" if code == 0 else f"failed ({code}), see {name}.log"
        except subprocess.TimeoutExpired:
            ended = f"stopped at its limit of {limit:.0f} s"
    measured = json.loads(found.read_text()) if found.exists() else {}
    return {**measured, "ended": ended, "seconds": time.perf_counter() - start}


def table(report: dict) -> str:
    """Two tables in Markdown: the steps, and all else."""
    peaks, lines = report.get("machine", {}), []
    steps = {
        f"{stage}, {name}": step for stage, found in report.items() for name, step in found.get("steps", {}).items()
    }
    if steps:
        head = "step", "ms", "TFLOP/s", "of matmul", "GB/s", "of copy", "kernels", "collectives"
        lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        lines += [f"| {name} | {' | '.join(row(name, step, peaks))} |" for name, step in steps.items()]
    lines += ["", "| stage | ended | seconds | found |", "|---|---|---|---|"]
    for name, found in report.items():
        told = ", ".join(
            f"{key} {shown(value)}" for key, value in found.items() if key not in ("steps", "ended", "seconds")
        )
        lines.append(f"| {name} | {found['ended']} | {found['seconds']:.0f} | {told} |")
    return "\n".join(lines) + "\n"


def row(name: str, step: dict, peaks: dict) -> list[str]:
    """Cells of one step; '-' for what was not measured."""
    seconds = step["seconds"]
    ceiling = peaks.get("bf16_flops" if "bfloat16" in name else "tf32_flops")
    flops, moved, copy = step.get("flops"), step.get("bytes"), peaks.get("copy_bytes")
    return [
        f"{1e3 * seconds:.3f}",
        f"{flops / seconds / 1e12:.2f}" if flops else "-",
        f"{flops / seconds / ceiling:.1%}" if flops and ceiling else "-",
        f"{moved / seconds / 1e9:.0f}" if moved else "-",
        f"{moved / seconds / copy:.0%}" if moved and copy else "-",
        *(str(step.get(name, "-")) for name in ("kernels", "collectives")),
    ]


def shown(value: object) -> str:
    """A number in four digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
