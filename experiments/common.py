"""What the scripts share: flags, launch, one-sentence errors."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from ssdkd_jax import build
from ssdkd_jax.engine import environment, hosts, preemption
from ssdkd_jax.engine import workdir as folders
from ssdkd_jax.errors import InputError

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/; fields are overridden as --config.x.y=v.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, plots, summary.json.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "ADDRESS:PORT of the first of several hosts; 'auto': the cluster's."
)
HOSTS = flags.DEFINE_integer("hosts", None, "How many hosts run this command together.")
HOST = flags.DEFINE_integer("host", None, "The number of this one, from 0.")


def launch(main: Callable[[], None], required: Sequence[str] = ("config", "workdir")) -> None:
    """Parse the flags and run `main`; what a user can mend ends in one sentence and exit code 1.

    Any other error keeps its traceback. A run stopped by SIGTERM ends with `preemption.EXIT_CODE`.
    """
    flags.mark_flags_as_required(required)
    logging.set_verbosity(logging.WARNING)

    def guarded(_: Sequence[str]) -> None:
        _cache_programs()
        try:
            if COORDINATOR.value or HOSTS.value or hosts.asked_for():
                address = "" if COORDINATOR.value == "auto" else COORDINATOR.value
                hosts.join(address, HOSTS.value, HOST.value)
            main()
        except preemption.Preempted as stopped:
            print(stopped, file=sys.stderr)
            sys.exit(preemption.EXIT_CODE)
        except (InputError, OSError) as error:
            if not folders.explained(error):
                raise
            sys.exit(f"Error: {folders.explain(error)}")

    app.run(guarded, flags_parser=_parse)


def _cache_programs() -> None:
    """Store compiled programs for the next run, where that can be done; one line where the folder is at fault."""
    enabled = environment.can_cache_programs(os.environ)
    try:
        if enabled:
            jax.config.update("jax_compilation_cache_dir", environment.cache_folder(os.environ))
    except OSError as error:
        remedy = "set JAX_COMPILATION_CACHE_DIR to a folder that can be written"
        print(f"Compiled programs are not cached ({error}); {remedy}.", file=sys.stderr)
        enabled = False
    jax.config.update("jax_enable_compilation_cache", enabled)


def _parse(argv: Sequence[str]) -> Sequence[str]:
    """Parse the flags; an unknown config field is one sentence that names the nearest."""
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        patterns = (r"^\W*(?:Key\W+)?(\w+)", r"Did you mean\W+(\w+)")
        field, near = (re.search(pattern, str(error)) for pattern in patterns)
        hint = f"; did you mean '{near.group(1)}'?" if near else "."
        sys.exit(f"Error: the config has no field '{field.group(1)}'{hint}" if field else f"Error: {error}")
    except (flags.Error, FileNotFoundError, TypeError) as error:
        sentence = str(error).rpartition("ValueError: ")[2]  # of a config file, below its traceback
        sys.exit("Error: " + " ".join(sentence.split()))


def config() -> ConfigDict:
    """The config of the command line.

    Raises:
        ValueError: where a field is set that the run would not read.
    """
    build.refuse_unread(CONFIG.value, config_flags.get_override_values(flags.FLAGS["config"]))
    return CONFIG.value


@contextlib.contextmanager
def claimed(workdir: Path) -> Iterator[None]:
    """No other process may use the folder meanwhile; of several hosts, the first claims it for all."""
    with folders.claim(workdir) if hosts.is_first() else contextlib.nullcontext():
        yield


def stop() -> bool:
    """Whether SIGTERM has come to any host."""
    return hosts.any_of(preemption.requested())
