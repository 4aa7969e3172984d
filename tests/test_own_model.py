"""A model of one's own, named as 'package.module:Class': where it is looked for, and what is said where it is not."""

import subprocess
import sys

import jax
import pytest
import tiny
from test_scripts import ROOT, environment

from ssdkd_jax import models
from ssdkd_jax.interop import saved

NET = """
import flax.linen as nn

class Net(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(self.classes)(images.reshape(images.shape[0], -1))
"""


@pytest.fixture
def working_folder(tmp_path, monkeypatch):
    """An empty folder to work in; nothing that is imported there stays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_a_package_in_the_working_folder_is_found(working_folder):
    write(working_folder, "my_package/my_module.py", NET)
    assert models.by_name("my_package.my_module:Net", 4).classes == 4


@pytest.mark.parametrize(
    ("text", "name", "sentence"),
    [
        (NET, "other:Net", r"\(No module named 'other'\); it is not in the working folder {folder} nor on .*: start"),
        (NET, "nowhere.deep:Net", r"it is not in the working folder {folder}"),
        ("import no_such_lib", "mine:Net", r"\(No module named 'no_such_lib'\); its own file asks for 'no_such_lib'"),
        ("from no_such_lib.x import y", "mine:Net", r"its own file asks for 'no_such_lib'"),
        (
            "from flax import no_such_name",
            "mine:Net",
            r"import name 'no_such_name' .* its own file asks for 'flax'",
        ),
        (NET, "mine:Nett", r"mine\.py has no 'Nett', but Net\); write it as 'package.module:Class'"),
        ("", "mine:Net", r"mine\.py has no 'Net', but none\); write it"),
        (NET, "mine:", "'mine:' names no model; write it as 'package.module:Class'"),
        (NET, ":Net", "':Net' names no model"),
        (NET, "..mine:Net", "names no model"),
        (NET, "mine.py:Net", "it is not in the working folder"),
        (NET, "a/mine:Net", "names no model"),
    ],
)
def test_what_cannot_be_imported_is_one_sentence_that_tells_why(working_folder, text, name, sentence):
    write(working_folder, "mine.py", text)
    with pytest.raises(ValueError, match=sentence.replace("{folder}", str(working_folder))) as error:
        models.by_name(name, 4)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_a_fault_in_the_users_own_file_keeps_its_traceback(working_folder):
    write(working_folder, "mine.py", "1 / 0")
    with pytest.raises(ZeroDivisionError):
        models.by_name("mine:Net", 4)


def test_scripts_find_it_in_the_folder_that_they_are_started_in(working_folder, cache):
    write(working_folder, "my_package/my_module.py", NET)
    network = models.bind(models.by_name("my_package.my_module:Net", 3), tiny.SHAPE)
    note = saved.note("my_package.my_module:Net", tiny.INPUTS)
    saved.save(working_folder / "model", network.init(jax.random.key(0)), note)
    flags = ("--checkpoint=model", "--output=model.stablehlo", "--model=my_package.my_module:Net")
    ended = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "export.py"), *flags],
        env=environment(cache) | {"PYTHONPATH": str(ROOT)},
        cwd=working_folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert (working_folder / "model.stablehlo").is_file()
