"""The console command `ssdkd`: one word says what to do, and flags say with what."""

from __future__ import annotations

import difflib
import importlib
import sys

from ssdkd_jax.engine import environment
from ssdkd_jax.errors import MissingError

COMMANDS = {
    "distill": ("distill", "a student from a teacher, without its data"),
    "synthesize": ("synthesize", "synthetic images of a teacher"),
    "import": ("import_torch", "a PyTorch checkpoint as a teacher"),
    "export": ("export", "a saved network as a file for other tools"),
    "evaluate": ("evaluate", "a saved network on real images"),
}
COMPUTING = ("distill", "synthesize", "evaluate")


def main() -> None:
    """Run the command that the command line names."""
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word in ("-h", "--help", "help"):
        print(usage())
        return
    if word not in COMMANDS:
        near = difflib.get_close_matches(word, COMMANDS, n=1, cutoff=0)[0]
        sys.exit(f"Error: '{word}' is no command of ssdkd; did you mean '{near}'? ssdkd --help lists them.")
    if word in COMPUTING:
        environment.prepare()
    sys.argv = [f"ssdkd {word}", *sys.argv[2:]]
    try:
        command = importlib.import_module(f"{__name__}.{COMMANDS[word][0]}")
    except MissingError as error:
        sys.exit(f"Error: {error}")
    command.launch()


def usage() -> str:
    """The commands, a line each."""
    lines = [f"  ssdkd {name:<11} {meaning}" for name, (_, meaning) in COMMANDS.items()]
    return "\n".join(["Data-free knowledge distillation.", "", *lines, "", "ssdkd COMMAND --help lists its flags."])
