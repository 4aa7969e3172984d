"""Runs the notebooks, and makes each .ipynb from its text.

    python notebooks/make.py               run all of them whole, and write .ipynb with what they show
    python notebooks/make.py 01_quickstart  the same of one
    python notebooks/make.py --dry ...      run, and write nothing
    python notebooks/make.py --text ...     run nothing: take over what changed between the cells of code

An error in a cell is an error of this script. `REPOSITORY` is where the notebooks say that the package lies; to
move it, replace it in this folder: sed -i s,ssdkd-jax/ssdkd_jax,OWNER/NAME, notebooks/*.py
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat

REPOSITORY = "ssdkd-jax/ssdkd_jax"
FOLDER = Path(__file__).parent
OF_THIS_MACHINE = re.compile(r"\d+/\d+ \[\d+:\d+|slow_operation_alarm|Very slow compile|^\*+$")  # bars; XLA's alarms


def names() -> list[str]:
    """Of the notebooks."""
    return sorted(path.stem for path in FOLDER.glob("[0-9]*.py"))


def cells(name: str) -> nbformat.NotebookNode:
    """The notebook of a text, without outputs; the same at each call."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    return notebook


def executed(name: str) -> nbformat.NotebookNode:
    """The notebook with the outputs of a fresh kernel, away from any file.

    Raises:
        CellExecutionError: for an error in a cell.
    """
    import nbclient

    notebook = cells(name)
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(
            notebook, timeout=1800, kernel_name="python3", record_timing=False, resources={"metadata": {"path": folder}}
        ).execute()
    notebook.metadata = cells(name).metadata
    return notebook


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without progress bars and alarms, which tell the time of one machine."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                lines = [line.rsplit("\r", 1)[-1] for line in output.text.split("\n")]
                output.text = "\n".join(line for line in lines if not OF_THIS_MACHINE.search(line)).strip("\n") + "\n"
        cell.get("outputs", [])[:] = [one for one in cell.get("outputs", ()) if one.get("text", "-").strip()]
    return notebook


def reworded(name: str) -> nbformat.NotebookNode:
    """The notebook with the outputs that it has.

    Raises:
        SystemExit: where a cell of code has changed.
    """
    notebook, known = cells(name), nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    code, run = ([cell for cell in one.cells if cell.cell_type == "code"] for one in (notebook, known))
    if [cell.source for cell in code] != [cell.source for cell in run]:
        raise SystemExit(f"The code of {name} has changed; run it: python notebooks/make.py {name}")
    for cell, done in zip(code, run, strict=True):
        cell.outputs, cell.execution_count = done.outputs, done.execution_count
    return notebook


def main() -> None:
    """Run, and say how long each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*names(), []], metavar="NAME")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry", action="store_true")
    how.add_argument("--text", action="store_true")
    options = parser.parse_args()
    for name in options.names or names():
        start = time.perf_counter()
        notebook = reworded(name) if options.text else executed(name)
        print(f"notebooks/{name}: {time.perf_counter() - start:.0f} s, no error", file=sys.stderr, flush=True)
        if not options.dry:
            nbformat.write(cleaned(notebook), FOLDER / f"{name}.ipynb")


if __name__ == "__main__":
    main()
