"""Where programs are cached, and the scripts of a user without a home, as of a container that runs as a bare number."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssdkd_jax.engine import environment

ROOT = Path(__file__).parents[1]
HOMELESS = """
import pwd, runpy, sys

def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = getpwuid
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def homeless(script, *arguments, **variables):
    """(exit code, stdout, lines of stderr) of a script without HOME and without an entry in passwd."""
    variables |= {"PATH": os.environ["PATH"], "JAX_PLATFORMS": "cpu", "SSDKD_JAX_ENVIRONMENT": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", HOMELESS, str(ROOT / "experiments" / script), *arguments],
        env=variables | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return ended.returncode, ended.stdout, ended.stderr.splitlines()


@pytest.fixture
def gone(monkeypatch):
    """No home: what expanduser then leaves."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)


def test_the_folder_of_programs_is_jaxs_own_variable_then_the_users_cache_then_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    jax_own, user = str(tmp_path / "jax"), str(tmp_path / "user")
    for variables, folder in (
        ({"JAX_COMPILATION_CACHE_DIR": jax_own, "XDG_CACHE_HOME": user}, jax_own),
        ({"JAX_COMPILATION_CACHE_DIR": "", "XDG_CACHE_HOME": user}, f"{user}/ssdkd_jax"),
        ({"XDG_CACHE_HOME": ""}, str(tmp_path / "home" / ".cache" / "ssdkd_jax")),
        ({}, str(tmp_path / "home" / ".cache" / "ssdkd_jax")),
    ):
        assert environment.cache_folder(variables) == folder
        assert os.listdir(folder) == []
    assert environment.cache_folder({"JAX_COMPILATION_CACHE_DIR": "gs://bucket/x"}) == "gs://bucket/x"


def test_home_is_asked_for_only_where_it_is_needed(tmp_path, gone):
    folder = str(tmp_path)
    assert environment.cache_folder({"JAX_COMPILATION_CACHE_DIR": folder}) == folder
    assert environment.cache_folder({"XDG_CACHE_HOME": folder}) == f"{folder}/ssdkd_jax"
    with pytest.raises(OSError, match="no home directory"):
        environment.cache_folder({})


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        environment.cache_folder({"XDG_CACHE_HOME": str(tmp_path / "file")})


@pytest.mark.parametrize("script", ["distill.py", "prepare_data.py"])
def test_help_needs_no_home(script):
    _, out, err = homeless(script, "--help")
    assert "flags:" in out or "--source" in out
    assert not [line for line in err if "Traceback" in line]


def test_without_a_home_one_line_says_that_nothing_is_cached(tmp_path):
    flags = (f"--checkpoint={tmp_path}", f"--output={tmp_path}/x.pth")
    code, _, err = homeless("export.py", *flags)
    assert code == 1
    assert err[0].startswith("Compiled programs are not cached (there is no home directory); set JAX_")
    assert err[1:] == [f"Error: No saved model in '{tmp_path}'; name one that a run, `ssdkd import` or `save` left."]
    code, _, err = homeless("export.py", *flags, XDG_CACHE_HOME=str(tmp_path))
    assert (code, len(err)) == (1, 1)


def test_without_a_home_a_data_set_is_prepared_in_a_named_folder_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = homeless("prepare_data.py", "--name=cifar10")
    assert (code, err) == (
        1,
        ["Error: there is no home directory for tfds's data; name a folder for them as --folder=FOLDER."],
    )
    assert os.listdir() == []
