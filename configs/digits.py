"""Quickstart: handwritten digits at 16x16, wrn16_1 -> wrn10_1, a buffer of 130 synthetic images."""

from ml_collections import ConfigDict

from ssdkd_jax import config as defaults


def get_config() -> ConfigDict:
    config = defaults.default()
    config.teacher.update(epochs=6, batch=64)
    config.student.update(batch=64)
    config.synthesis.update(batch=65, inner_steps=3, width=32)
    config.schedule.update(rounds=30, warmup=4, distill_steps=30, evaluate_every=5)
    return config
