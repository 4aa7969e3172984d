"""A saved model (a student, a teacher) as a file for other tools; the ending of --output chooses the format.

    python experiments/export.py --checkpoint=runs/cifar10/student --output=student.safetensors

.safetensors, .pth and .pt hold a PyTorch state dict in the peers' key layout (.pth and .pt need PyTorch);
.stablehlo holds a program that jax alone runs on images of any batch size.
"""

from __future__ import annotations

from pathlib import Path

import common
from absl import flags

from ssdkd_jax.engine import files
from ssdkd_jax.interop import saved, stablehlo, torch_files, torch_layout

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Folder of the saved model.")
MODEL = flags.DEFINE_string("model", None, "Name of the model, 'package.module:Class', where it is one of your own.")
OUTPUT = flags.DEFINE_string("output", None, "File to write: .safetensors, .pth, .pt or .stablehlo.")
IMAGES = flags.DEFINE_enum("images", "uint8", stablehlo.INPUTS, "What a .stablehlo file takes: [0, 255] or [0, 1].")


def main() -> None:
    """Export, and say how to feed it."""
    model = saved.load(CHECKPOINT.value, MODEL.value)
    name, mean, std = (model.note[field] for field in ("model", "mean", "std"))
    output = Path(OUTPUT.value)
    if output.suffix == ".stablehlo":
        program = stablehlo.serialize(model.network, model.variables, model.note["image_shape"], IMAGES.value)
        output.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(output, program)
        takes = f"{IMAGES.value} images [B, {', '.join(map(str, model.note['image_shape']))}]"
    else:
        torch_files.write(output, torch_layout.to_torch(model.variables, torch_layout.of(name)))
        takes = f"(images - mean) / std with mean {mean} and std {std}"
    print(f"{name} written to {output}; it takes {takes}.")


if __name__ == "__main__":
    common.launch(main, required=("checkpoint", "output"))
