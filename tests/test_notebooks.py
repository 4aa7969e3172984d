"""The notebooks are made from their texts; running them is .ci/run's work."""

import importlib.util
import re
from pathlib import Path

import pytest

pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")

FOLDER = Path(__file__).parents[1] / "notebooks"
spec = importlib.util.spec_from_file_location("make", FOLDER / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)


@pytest.mark.parametrize("name", make.names())
def test_a_notebook_is_made_from_its_text_and_has_been_run(name):
    path = FOLDER / f"{name}.ipynb"
    made, expected = nbformat.read(path, 4), make.cells(name)
    parts = ("id", "cell_type", "source")
    assert [[cell[part] for part in parts] for cell in made.cells] == [
        [cell[part] for part in parts] for cell in expected.cells
    ], f"run: python notebooks/make.py {name}"
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert sum("image/png" in output.get("data", {}) for cell in code for output in cell.outputs) >= 5
    assert path.stat().st_size < 1_000_000 and not re.search(r"/tmp/|/home/|\d+it/s", path.read_text())


def test_the_repository_is_named_in_one_way():
    texts = [(FOLDER / f"{name}{ending}").read_text() for name in make.names() for ending in (".py", ".ipynb")]
    assert {found for text in texts for found in re.findall(r"github(?:\.com)?/([\w-]+/[\w-]+)", text)} == {
        make.REPOSITORY
    }
