"""Scores of a saved teacher or student on the real test images of a config.

python experiments/evaluate.py --config=configs/digits.py --checkpoint=runs/digits/student
"""

from __future__ import annotations

from ssdkd_jax.engine import environment

environment.prepare()

import json

import common
from absl import flags

from ssdkd_jax.engine import parallel

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Folder of the saved model.")
MODEL = flags.DEFINE_string("model", None, "Name of the model, 'package.module:Class', where it is one of your own.")


def main() -> None:
    """Load, evaluate, and print one JSON object."""
    dataset, inputs = common.load_data(common.CONFIG.value)
    model = common.load_model(CHECKPOINT.value, MODEL.value, inputs, common.CONFIG.value.compute)
    evaluate = common.evaluator(common.CONFIG.value, model.network, dataset)
    metrics = evaluate(parallel.to_devices(model.variables))
    print(json.dumps({"model": model.note["model"], "images": len(dataset.test_images), **metrics}))


if __name__ == "__main__":
    common.launch(main, required=("config", "checkpoint"))
