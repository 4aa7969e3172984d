"""Quickstart: handwritten digits at 16x16, wrn16_1 -> wrn10_1, a buffer of 130 synthetic images (10 % of the real set).

python experiments/distill.py --config=configs/digits.py --workdir=runs/digits
"""

from ml_collections import ConfigDict

from ssdkd_jax import config as defaults


def get_config() -> ConfigDict:
    """See ssdkd_jax/config.py for the meaning of every field."""
    config = defaults.default()
    config.teacher.update(epochs=7, batch=64, shift=1)
    config.student.update(batch=64)
    config.synthesis.update(batch=64, inner_steps=3, width=32)
    config.sampler.name = "uniform"
    config.schedule.update(rounds=23, warmup=4, distill_steps=30, evaluate_every=6)
    return config
