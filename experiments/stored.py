"""The config that a run was started with, as it lies in its folder: --config=experiments/stored.py:RUN/config.json."""

from __future__ import annotations

import json
from pathlib import Path

from ml_collections import ConfigDict

from ssdkd_jax import config
from ssdkd_jax.errors import InputError


def get_config(path: str) -> ConfigDict:
    """The default config with the fields of a JSON file.

    Raises:
        ValueError: where there is no such file, or a field that the default lacks or has of another type.
    """
    stored = config.default()
    try:
        stored.update(json.loads(Path(path).read_text()))
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"'{path}' holds no config of a run ({reason}); give the config.json of its folder."
        ) from error
    return stored
