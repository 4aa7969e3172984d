"""Download and prepare a tfds data set once, as array_record; needs TensorFlow: pip install '.[prepare]'.

python experiments/prepare_data.py --name=cifar10
"""

from __future__ import annotations

import tensorflow_datasets as tfds
from absl import app, flags

NAME = flags.DEFINE_enum("name", "cifar10", ["cifar10", "cifar100", "fashion_mnist"], "The data set.")
FOLDER = flags.DEFINE_string("folder", None, "tfds's data directory; its own where not given.")


def main(_: list[str]) -> None:
    """Prepare."""
    tfds.builder(NAME.value, data_dir=FOLDER.value, file_format="array_record").download_and_prepare()


if __name__ == "__main__":
    app.run(main)
