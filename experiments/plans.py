"""What scripts of many runs share: the plan that a folder keeps, configs that differ in a few fields, processors."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ssdkd_jax.engine import files
from ssdkd_jax.run import identity

LINUX = sys.platform == "linux"


def claim(workdir: Path, plan: dict[str, Any]) -> None:
    """Create a working folder of runs, and keep their plan in it.

    Raises:
        InputError: where it is that of another plan.
    """
    path = workdir / "plan.json"
    workdir.mkdir(parents=True, exist_ok=True)
    if path.exists():
        identity.check(json.loads(path.read_text()), plan, workdir, "choose another --workdir")
    files.write_json(path, plan)


def configured(config: ConfigDict, **fields: Any) -> ConfigDict:
    """A copy of `config` with dotted fields set, written a__b for a.b."""
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return changed


def stay_on(cores: Sequence[int]) -> None:
    """Keep this thread, and what it starts, on these processors where the system can do that: on Linux."""
    if LINUX:
        os.sched_setaffinity(0, cores)
