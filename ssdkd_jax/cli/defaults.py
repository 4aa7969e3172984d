"""The config of a command that names none: every setting at its default, and no data."""

from ml_collections import ConfigDict

from ssdkd_jax import config


def get_config() -> ConfigDict:
    """As `ssdkd_jax.config.default`, without data."""
    defaults = config.default()
    defaults.data.name = "none"
    return defaults
