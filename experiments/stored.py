"""The config that a run was started with, as it lies in its folder: --config=experiments/stored.py:RUN/config.json."""

from __future__ import annotations

import json
from pathlib import Path

from ml_collections import ConfigDict

from ssdkd_jax import config


def get_config(path: str) -> ConfigDict:
    """The default config with the fields of a JSON file; a field that the default lacks is an error."""
    stored = config.default()
    stored.update(json.loads(Path(path).read_text()))
    return stored
