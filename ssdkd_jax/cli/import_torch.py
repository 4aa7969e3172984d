"""A PyTorch checkpoint as a saved model of this package.

    ssdkd import --checkpoint=wrn40_2.pth --mean=0.4914,0.4822,0.4465 --std=0.2023,0.1994,0.2010 \\
      --output=teachers/wrn40_2

The architecture is recognised by its keys where --model does not name it. A file of PyTorch's needs
PyTorch (pip install '.[torch]'), a .safetensors file does not. Nothing in the file is run. A mean outside
[0, 1] or a std outside [0.01, 1] needs --unusual_normalisation.
"""

from __future__ import annotations

import sys

from absl import flags

from ssdkd_jax import build, models
from ssdkd_jax.cli import launch as shared
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import notes, saved, torch_import
from ssdkd_jax.report import progress
from ssdkd_jax.types import named_leaves

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "The .pth, .pt or .safetensors file.")
MODEL = flags.DEFINE_string("model", None, "Its name in the zoo; recognised where not given.")
MEAN = flags.DEFINE_list("mean", None, "Mean of its normalisation, a number per channel (or one for all), in [0, 1].")
STD = flags.DEFINE_list("std", None, "Standard deviation of its normalisation, likewise.")
IMAGE_SIZE = flags.DEFINE_list("image_size", ["32"], "Pixels, as SIZE or HEIGHT,WIDTH.")
UNUSUAL = flags.DEFINE_bool(notes.MEANT, False, "Take a mean or std that images in [0, 1] hardly have.")
OUTPUT = flags.DEFINE_string("output", None, "Folder to save it in.")


def launch() -> None:
    """Parse the flags and run."""
    shared.launch(main, ("checkpoint", "mean", "std", "output"), documented=sys.modules[__name__])


def main() -> None:
    """Import, save, and say what it is."""
    size = _numbers("image_size", IMAGE_SIZE.value, int)
    if len(size) not in (1, 2) or min(size) < 1:
        raise InputError(f"--image_size={','.join(IMAGE_SIZE.value)} is no size; write it as 32 or 28,36.")
    height, width = (size * 2)[:2]
    mean, std = (_numbers(flag.name, flag.value, float) for flag in (MEAN, STD))
    clock = progress.Stopwatch()
    with clock("reading"):
        found = torch_import.load(CHECKPOINT.value, (height, width), MODEL.value)
    inputs = build.Inputs((height, width, found.channels), found.classes, mean, std)
    note = saved.note(found.model, inputs, UNUSUAL.value)
    with clock("saving"):
        saved.save(OUTPUT.value, found.variables, note)
    print(*found.remarks, sep="\n", end="\n" * bool(found.remarks))
    how = "named" if MODEL.value else "recognised by its keys"
    norms = sum(path.endswith(".var") for path in named_leaves(found.variables))
    print(
        f"{found.model} ({how}), {found.classes} classes, images {height}x{width}x{found.channels}, "
        f"{models.parameter_count(found.variables):,} parameters, {norms} BatchNorms: saved in {OUTPUT.value} "
        f"({clock.seconds['reading']:.1f} s reading, {clock.seconds['saving']:.1f} s saving)"
    )


def _numbers(name: str, texts: list[str], kind: type) -> list:
    try:
        return [kind(text) for text in texts]
    except ValueError as error:
        raise InputError(f"--{name}={','.join(texts)} is not a list of numbers; write it as 1,2,3.") from error
