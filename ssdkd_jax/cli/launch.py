"""What the commands share: flags, launch, one-sentence errors."""

from __future__ import annotations

import contextlib
import logging as python_logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import jax
from absl import app, flags, logging

from ssdkd_jax import config as settings
from ssdkd_jax import settings as fields
from ssdkd_jax.engine import environment, hosts, preemption
from ssdkd_jax.engine import workdir as folders
from ssdkd_jax.errors import Faults, InputError, MissingError, needs

with needs():
    from ml_collections import ConfigDict, config_flags

if TYPE_CHECKING:
    from ssdkd_jax.data import Dataset

log = python_logging.getLogger(__name__)
NONE = "none"  # the data set of a run without data

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/; fields are overridden as --config.x.y=v.")
DEFAULTS = Path(__file__).with_name("defaults.py")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, plots, summary.json.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "ADDRESS:PORT of the first of several hosts; 'auto': the cluster's."
)
HOSTS = flags.DEFINE_integer("hosts", None, "How many hosts run this command together.")
HOST = flags.DEFINE_integer("host", None, "The number of this one, from 0.")


def launch(
    main: Callable[[], None],
    required: Sequence[str] = ("config", "workdir"),
    documented: ModuleType | None = None,
    prepared: Callable[[list[str]], list[str]] = list,
) -> None:
    """Parse the flags and run `main`; what a user can mend ends in one sentence and exit code 1.

    Any other error keeps its traceback. A run stopped by SIGTERM ends with `preemption.EXIT_CODE`.

    Args:
        documented: the module whose text and flags --help shows; None: the script itself.
        prepared: the command line -> the one that is parsed.
    """
    flags.mark_flags_as_required(required)
    sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may be no text
    logging.set_verbosity(logging.WARNING)
    python_logging.getLogger("ssdkd_jax").setLevel(python_logging.INFO)
    if documented is not None:
        _document(documented)

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
            sys.exit("\n".join(f"Error: {sentence}" for sentence in folders.explain(error).split("\n")))

    sys.argv = prepared(sys.argv)  # where the config's flag looks for what is set in it
    app.run(guarded, flags_parser=_parse)


def _document(module: ModuleType) -> None:
    """Let --help show the text and the flags of a module, whatever script was started."""
    sys.modules["__main__"].__doc__ = module.__doc__
    for flag in flags.FLAGS.get_flags_for_module(module.__name__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


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
    """Parse the flags; what is wrong with them, or with a field that a config file sets, is told in one sentence."""
    known = {name: (field, record) for record in settings.records() for name, field in fields.fields(record).items()}
    asked = [match.group(1) for match in (re.match(r"--?config\.([\w.]+)=", word) for word in argv) if match]
    unknown = [f"Error: {fields.unknown(name, known)}" for name in asked if name not in known]
    if unknown:
        sys.exit("\n".join(unknown))
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        text = str(error)
        *ours, sentence = re.split(r"ssdkd_jax\.errors\.\w+: ", text)
        if match := re.match(r"flag --config\.([\w.]+)=(.*?): ", text):
            sentence = fields.fault(match.group(1), *known[match.group(1)], match.group(2))
        elif "Traceback" in text and not ours:  # of a config file
            raise
        sys.exit("Error: " + " ".join(sentence.split()))
    except (AttributeError, KeyError) as error:
        name = re.search(r"^\W*(?:Key\W+)?(\w+)", str(error))
        if "ml_collections" not in traceback.extract_tb(error.__traceback__)[-1].filename or not name:
            raise
        sys.exit(f"Error: {fields.unknown(name.group(1), {field.rpartition('.')[2] for field in known})}")
    except FileNotFoundError as error:
        sys.exit("Error: " + " ".join(str(error).split()))


def config() -> ConfigDict:
    """The config of the command line.

    Raises:
        InputError: a line for each of its faults, see `ssdkd_jax.config.check`.
    """
    try:
        found = CONFIG.value.copy_and_resolve_references()
    except OSError as error:  # told only when it is read
        raise MissingError("The file that --config names cannot be read; name one of configs/.") from error
    check(found)
    return found


def before_rules() -> ConfigDict:
    """The config of the command line; where it names none, unchecked, since the rules of `ssdkd_jax.api` come first."""
    return CONFIG.value.copy_and_resolve_references() if without_config() else config()


def with_defaults(argv: list[str]) -> list[str]:
    """The command line with a config, be it that of all defaults."""
    named = any(word.lstrip("-").partition("=")[0] == "config" for word in argv[1:])
    return argv if named else [argv[0], f"--config={DEFAULTS}", *argv[1:]]


def without_config() -> bool:
    """Whether the command line names no config."""
    return flags.FLAGS["config"].config_filename == str(DEFAULTS)


def check(found: ConfigDict) -> None:
    """Raise InputError, a line for each fault of a config and of what the command line sets in it."""
    faults = Faults()
    with faults:
        settings.check(found, overridden())
    with faults:
        if found.data.name != NONE:
            from ssdkd_jax import data

            data.check(found.data.name)
    faults.report()


def overridden() -> dict[str, Any]:
    """The fields that the command line sets, by dotted name."""
    return config_flags.get_override_values(flags.FLAGS["config"])


def dataset(config: ConfigDict) -> Dataset | None:
    """The data set that a config names; None where it names none.

    Where the teacher is given and the data are not there, a line says so, the config then names none, and the run does
    without.

    Raises:
        MissingError: where a teacher is still to be trained on them.
    """
    if config.data.name == NONE:
        return None
    from ssdkd_jax import data

    try:
        return data.load(config.data.name, config.data.folder)
    except MissingError as error:
        if not config.teacher.checkpoint:
            raise
        config.data.update(name=NONE, folder="")
        log.warning("%s The teacher is given, so the run goes on without data (data.name = 'none').", error)
        return None


@contextlib.contextmanager
def claimed(workdir: Path) -> Iterator[None]:
    """No other process may use the folder meanwhile; of several hosts, the first claims it for all."""
    with folders.claimed(workdir) if hosts.is_first() else contextlib.nullcontext():
        yield


def stop() -> bool:
    """Whether SIGTERM has come to any host."""
    return hosts.any_of(preemption.requested())
