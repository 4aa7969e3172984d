"""Predict what a round of a config costs on one device and on many; nothing is run or measured.

    python experiments/cost_model.py --config=configs/cifar10.py:resnet34_resnet18 --devices=1,8,256

FLOPs and bytes between devices are counted in the programs themselves. The accelerator is given by three numbers, which
are assumptions: FLOP/s sustained, bytes/s to a neighbour, and the least seconds of a collective. With
`--measured=distillation:0.477,synthesis:5.68` (seconds on one device of a step, or of all of a round's synthesis), the
first of these sets the FLOP/s, and the others are compared with what it predicts.
"""

from __future__ import annotations

from ssdkd_jax.engine import environment

environment.prepare()

import cost
import jax
from absl import flags
from ml_collections import ConfigDict

from ssdkd_jax import build, data
from ssdkd_jax.cli import launch
from ssdkd_jax.run import evaluation

DEVICES = flags.DEFINE_list("devices", ["1", "8", "256"], "How many devices to predict for.")
FLOPS = flags.DEFINE_float("flops", 2e13, "FLOP/s that a device sustains.")
BANDWIDTH = flags.DEFINE_float("bandwidth", 5e10, "Bytes/s between neighbours.")
LATENCY = flags.DEFINE_float("latency", 1e-5, "Seconds that a collective takes at least.")
MEASURED = flags.DEFINE_list("measured", [], "STEP:SECONDS on one device.")
SHAPES = {  # of images and classes, so that the data need not be there
    "digits": ((16, 16, 1), 10),
    "fashion_mnist": ((28, 28, 1), 10),
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
}


def main() -> None:
    """Count, and print a table for each number of devices."""
    config = build.resolved(launch.config())
    inputs = the_inputs(config)
    model = cost.model(config, inputs)
    each = model(1)
    flops_per_second = FLOPS.value
    counted = {name: value.flops for name, value in each.items()}
    counted["synthesis"] = cost.a_round(config, {**each, "distillation": cost.Cost(0, 0, 0)}).flops
    for position, (name, seconds) in enumerate(pair.split(":") for pair in MEASURED.value):
        if position == 0:
            flops_per_second = counted[name] / float(seconds)
        predicted = counted[name] / flops_per_second
        print(
            f"{name}: measured {float(seconds):.4g} s, predicted {predicted:.4g} s ({predicted / float(seconds):.2f})"
        )
    device = cost.Device(flops_per_second, BANDWIDTH.value, LATENCY.value)
    print(f"FLOP/s {device.flops:.3g}, bytes/s {device.bandwidth:.3g}, seconds of a collective {device.latency:.3g}")
    print(f"state {state_bytes(config, inputs) / 1e6:.1f} MB, what a checkpoint holds\n")
    alone = cost.a_round(config, each).seconds(device)
    for devices in map(int, DEVICES.value):
        if config.student.batch % devices or config.synthesis.batch % devices:
            print(f"{devices} devices: the batches ({config.synthesis.batch}, {config.student.batch}) do not divide.")
            continue
        report(config, model(devices), devices, device, alone)


def the_inputs(config: ConfigDict) -> build.Inputs:
    """What a network takes; the data are read only where their shape is not known."""
    if config.data.name not in SHAPES:
        return evaluation.inputs(config, data.load(config.data.name, config.data.folder))
    return build.Inputs(*SHAPES[config.data.name], (0.5,), (0.25,))


def report(config: ConfigDict, each: dict, devices: int, device: cost.Device, alone: float) -> None:
    """Print the cost of each step and of a round on one of `devices`."""
    print(f"{devices} devices: step x times      GFLOP      MB sent  collectives   seconds")
    times = cost.repetitions(config)
    rows = {f"{name} x {times[name]}": (value, times[name]) for name, value in each.items()}
    rows["a round"] = (cost.a_round(config, each), 1)
    for name, (value, repeated) in rows.items():
        sums = value.flops / 1e9, value.bytes / 1e6, value.collectives, repeated * value.seconds(device)
        print(f"  {name:24s} {sums[0]:12.3f} {sums[1]:12.3f} {sums[2]:12.0f} {sums[3]:9.4f}")
    speedup = alone / rows["a round"][0].seconds(device)
    print(f"  {speedup:.1f} times as fast as one, {100 * speedup / devices:.0f} % of {devices}\n")


def state_bytes(config: ConfigDict, inputs: build.Inputs) -> int:
    """Bytes of everything that a checkpoint holds."""
    (state,) = cost.steps(config, inputs)["begin"][1]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


if __name__ == "__main__":
    launch.launch(main, required=("config",))
