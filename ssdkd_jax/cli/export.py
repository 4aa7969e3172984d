"""A saved network (a student, a teacher) as a file for other tools; the ending of --output chooses the format.

    ssdkd export --checkpoint=runs/cifar10/student --output=student.safetensors

.safetensors, .pth and .pt hold a PyTorch state dict in the peers' key layout (.pth and .pt need PyTorch);
.stablehlo holds a program that jax alone runs on images of any batch size.
"""

from __future__ import annotations

import sys

from absl import flags

from ssdkd_jax.cli import launch as shared
from ssdkd_jax.interop import saved, stablehlo


def launch() -> None:
    """Define the flags, parse them, and run."""
    flags.DEFINE_string("checkpoint", None, "Folder of the saved network.")
    flags.DEFINE_string("model", None, "Its name, 'package.module:Class', where it is one of your own.")
    flags.DEFINE_string("output", None, "File to write: .safetensors, .pth, .pt or .stablehlo.")
    flags.DEFINE_enum("images", "uint8", stablehlo.INPUTS, "What a .stablehlo file takes: [0, 255] or [0, 1].")
    shared.launch(main, ("checkpoint", "output"), documented=sys.modules[__name__])


def main() -> None:
    """Export, and say how to feed it."""
    model = saved.load(flags.FLAGS.checkpoint, flags.FLAGS.model)
    takes = model.export(flags.FLAGS.output, flags.FLAGS.images)
    print(f"{model.name} written to {flags.FLAGS.output}; it takes {takes}.")
