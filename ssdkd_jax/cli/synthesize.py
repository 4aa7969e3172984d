"""Synthetic images of a teacher; no student is trained.

    ssdkd synthesize --teacher=FOLDER --images=1000 --output=DIR
    ssdkd synthesize --teacher=FOLDER --images=1000 --output=images.npz

A folder holds PNG files, below it a folder for each class as the teacher sees it; an .npz file also holds the
teacher's logits. They may show what the teacher was trained on: treat them as its owner would.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

from ssdkd_jax.api import synthesis
from ssdkd_jax.api.teachers import Teacher
from ssdkd_jax.cli import launch as shared
from ssdkd_jax.run import teacher as teachers


def launch() -> None:
    """Define the flags, parse them, and run."""
    flags.DEFINE_string("teacher", None, "Folder of the saved teacher.")
    flags.DEFINE_integer("images", None, "How many images.")
    flags.DEFINE_string("output", None, "A new folder, or a file that ends in .npz.")
    required = ("teacher", "images", "output")
    shared.launch(main, required, documented=sys.modules[__name__], prepared=shared.with_defaults)


def main() -> None:
    """Synthesize, save, and say what was made."""
    output, config = Path(flags.FLAGS.output), shared.before_rules()
    synthesis.check_output(output)
    teacher = Teacher.load(flags.FLAGS.teacher, teachers.named(config))
    if shared.without_config():
        config = synthesis.default_config(teacher, config.task.name)
        config.update_from_flattened_dict(shared.overridden())
    made = synthesis.synthesize(teacher, flags.FLAGS.images, config)
    made.save(output)
    print(f"{made!r}, saved in {output}.")
