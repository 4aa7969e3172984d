"""Quickstart: handwritten digits at 16x16, wrn16_1 -> wrn10_1, a buffer of 130 synthetic images."""

from ml_collections import ConfigDict

from ssdkd_jax import config as defaults


def get_config() -> ConfigDict:
    config = defaults.default()
    config.teacher.epochs = 6
    config.teacher.batch = 64
    return config
