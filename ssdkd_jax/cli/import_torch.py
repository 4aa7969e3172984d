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
from ssdkd_jax.engine.trees import named_leaves
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import notes, saved, torch_import
from ssdkd_jax.report import progress


def launch() -> None:
    """Define the flags, parse them, and run."""
    flags.DEFINE_string("checkpoint", None, "The .pth, .pt or .safetensors file.")
    flags.DEFINE_string("model", None, "Its name in the zoo; recognised where not given.")
    flags.DEFINE_list("mean", None, "Mean of its normalisation, a number per channel (or one for all), in [0, 1].")
    flags.DEFINE_list("std", None, "Standard deviation of its normalisation, likewise.")
    flags.DEFINE_list("image_size", ["32"], "Pixels, as SIZE or HEIGHT,WIDTH.")
    flags.DEFINE_bool(notes.MEANT, False, "Take a mean or std that images in [0, 1] hardly have.")
    flags.DEFINE_string("output", None, "Folder to save it in.")
    shared.launch(main, ("checkpoint", "mean", "std", "output"), documented=sys.modules[__name__])


def main() -> None:
    """Import, save, and say what it is."""
    size = _numbers("image_size", flags.FLAGS.image_size, int)
    if len(size) not in (1, 2) or min(size) < 1:
        raise InputError(f"--image_size={','.join(flags.FLAGS.image_size)} is no size; write it as 32 or 28,36.")
    height, width = (size * 2)[:2]
    mean, std = (_numbers(name, flags.FLAGS[name].value, float) for name in ("mean", "std"))
    clock = progress.Stopwatch()
    with clock("reading"):
        found = torch_import.load(flags.FLAGS.checkpoint, (height, width), flags.FLAGS.model)
    inputs = build.Inputs((height, width, found.channels), found.classes, mean, std)
    note = saved.note(found.model, inputs, flags.FLAGS.unusual_normalisation)
    with clock("saving"):
        saved.save(flags.FLAGS.output, found.variables, note)
    print(*found.remarks, sep="\n", end="\n" * bool(found.remarks))
    how = "named" if flags.FLAGS.model else "recognised by its keys"
    norms = sum(path.endswith(".var") for path in named_leaves(found.variables))
    print(
        f"{found.model} ({how}), {found.classes} classes, images {height}x{width}x{found.channels}, "
        f"{models.parameter_count(found.variables):,} parameters, {norms} BatchNorms: saved in {flags.FLAGS.output} "
        f"({clock.seconds['reading']:.1f} s reading, {clock.seconds['saving']:.1f} s saving)"
    )


def _numbers(name: str, texts: list[str], kind: type) -> list:
    try:
        return [kind(text) for text in texts]
    except ValueError as error:
        raise InputError(f"--{name}={','.join(texts)} is not a list of numbers; write it as 1,2,3.") from error
