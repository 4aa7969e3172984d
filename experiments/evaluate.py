"""Scores of a saved teacher or student on the real test images of a config.

python experiments/evaluate.py --config=configs/digits.py --checkpoint=runs/digits/student
"""

from __future__ import annotations

from ssdkd_jax.engine import environment

environment.prepare()

import json

import common
from absl import flags

from ssdkd_jax import data
from ssdkd_jax.run import evaluation

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Folder of the saved model.")
MODEL = flags.DEFINE_string("model", None, "Name of the model, 'package.module:Class', where it is one of your own.")


def main() -> None:
    """Load, evaluate, and print one JSON object."""
    config = common.config()
    dataset = data.load(config.data.name, config.data.folder)
    print(json.dumps(evaluation.evaluate_saved(config, dataset, CHECKPOINT.value, MODEL.value)))


if __name__ == "__main__":
    common.launch(main, required=("config", "checkpoint"))
