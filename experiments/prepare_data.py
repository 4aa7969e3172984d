"""Prepare a tfds data set once, as array_record.

    python experiments/prepare_data.py --name=cifar10
    python experiments/prepare_data.py --name=nyuv2 --source=FOLDER

CIFAR and Fashion-MNIST are downloaded and need TensorFlow: pip install '.[prepare]'. NYUv2 is read from a folder
of yours (ssdkd_jax/data/nyuv2.py lists the layouts) without it.
"""

from __future__ import annotations

import os
import sys

from absl import app, flags

from ssdkd_jax.errors import InputError, needs

NAME = flags.DEFINE_string("name", "cifar10", "The data set: nyuv2, or as tfds calls it.")
SOURCE = flags.DEFINE_string("source", None, "The folder that holds NYUv2.")
FOLDER = flags.DEFINE_string("folder", None, "tfds's data directory; its own where not given.")


def main(_: list[str]) -> None:
    """Prepare."""
    if not FOLDER.value and not os.path.isabs(os.path.expanduser("~")):
        sys.exit("Error: there is no home directory for tfds's data; name a folder for them as --folder=FOLDER.")
    if NAME.value == "nyuv2" and not SOURCE.value:
        sys.exit("Error: NYUv2 is not downloaded; name the folder that holds it as --source=FOLDER.")
    try:
        prepare(NAME.value, SOURCE.value, FOLDER.value)
    except InputError as error:
        sys.exit(f"Error: {error}")


def prepare(name: str, source: str, folder: str | None) -> None:
    """Prepare a data set in tfds's folder.

    Raises:
        InputError: for a name that tfds does not know, a source that is no NYUv2, or packages that are missing.
    """
    if name == "nyuv2":
        from ssdkd_jax.data import nyuv2

        nyuv2.prepare(source, folder)
        return
    with needs("data"):
        import tensorflow_datasets as tfds
    try:
        builder = tfds.builder(name, data_dir=folder, file_format="array_record")
    except tfds.core.registered.DatasetNotFoundError as error:
        raise InputError(f"tfds knows no data set '{name}'; give --name=nyuv2, or a name of its catalogue.") from error
    builder.download_and_prepare()


if __name__ == "__main__":
    app.run(main)
