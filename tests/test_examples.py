"""The examples in the docstrings of the public names run, and every public name has a docstring."""

import doctest
import importlib

import pytest

import ssdkd_jax
from ssdkd_jax.api import rules

MODULES = (
    "api.comparison",
    "api.distillation",
    "api.rules",
    "api.synthesis",
    "api.teachers",
    "errors",
    "interop.saved",
    "losses",
    "sources.procedural",
)


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rules, "BATCH", 16)  # of a config that nobody gives
    assert doctest.testmod(importlib.import_module(f"ssdkd_jax.{name}")).failed == 0


def test_the_table_of_contents_is_whole():
    assert ssdkd_jax.__all__ == sorted(ssdkd_jax.__all__)
    for name in ssdkd_jax.__all__:
        assert getattr(ssdkd_jax, name).__doc__, name
    assert set(ssdkd_jax.__all__) <= set(dir(ssdkd_jax))
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        ssdkd_jax.distil  # noqa: B018
