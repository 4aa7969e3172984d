"""The mapping between PyTorch keys and linen variables, without PyTorch."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
import zoo_weights
from test_scripts import environment
from test_torch_parity import shapes, zoo_state

from ssdkd_jax.engine import checkpoint
from ssdkd_jax.interop import torch_files, torch_import, torch_layout

NAME = "wrn16_1"


def imported(state, name=NAME):
    return torch_layout.from_torch(state, shapes(name), torch_layout.of(name))


@pytest.mark.parametrize("name", zoo_weights.NAMES)
def test_out_and_in_again_are_the_same_arrays(name, tmp_path):
    state, layout = zoo_state(name), torch_layout.of(name)
    variables = imported(state, name)
    torch_files.write(tmp_path / "model.safetensors", torch_layout.to_torch(variables, layout))
    again = torch_import.load(tmp_path / "model.safetensors")
    assert (again.model, again.classes, again.channels) == (name, zoo_weights.CLASSES, zoo_weights.CHANNELS)
    assert tiny.tree_equal(again.variables, variables)
    exported = torch_layout.to_torch(again.variables, layout)
    assert exported.keys() == state.keys()
    assert all(np.array_equal(exported[key], state[key]) for key in state if "tracked" not in key)


def test_all_that_does_not_fit_is_one_error():
    state = zoo_state(NAME)
    del state["block1.layer.0.conv1.weight"], state["fc.bias"]
    state["conv1.weight"] = state["conv1.weight"][:, :, :1]
    state["extra.weight"] = state["bn1.weight"]
    with pytest.raises(ValueError) as error:
        imported(state)
    for part in (
        "missing: block1.layer.0.conv1.weight, fc.bias",
        "unused: extra.weight",
        "of another shape: conv1.weight [16, 2, 1, 3] instead of [16, 2, 3, 3]",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value):
    state = zoo_state(NAME)
    state["block2.layer.0.conv1.weight"][0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"hold NaN or infinity \(block2\.layer\.0\.conv1\.weight\)"):
        imported(state)


def test_a_negative_variance():
    state = zoo_state(NAME)
    state["bn1.running_var"][3] = -0.1
    with pytest.raises(ValueError, match=r"are negative variances \(bn1\.running_var\)"):
        imported(state)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.complex64, bool])
def test_numbers_of_another_kind(dtype):
    state = zoo_state(NAME)
    state["fc.weight"] = state["fc.weight"].astype(dtype)
    with pytest.raises(ValueError, match=r"not of floating-point numbers \(fc\.weight\)"):
        imported(state)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_become_float32(dtype):
    state = zoo_state(NAME)
    state = {key: value if "tracked" in key else value.astype(dtype) for key, value in state.items()}
    variables = imported(state)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(variables["params"]["fc"]["bias"], state["fc.bias"].astype(np.float32))


def test_a_model_without_a_layout():
    with pytest.raises(ValueError, match="No layout is known for the model 'tiny:Tiny'; pass one of your own"):
        torch_layout.of("tiny:Tiny")


def test_a_layout_that_gives_two_arrays_one_key():
    with pytest.raises(ValueError, match=r"the key layer\.bn\.running_mean, .*more specific"):
        torch_layout.keys(shapes(NAME), [(r".*bn\d", "layer.bn")])


def test_an_array_that_pytorch_does_not_have():
    with pytest.raises(ValueError, match=r"'params\.dense\.alpha' has no PyTorch counterpart"):
        torch_layout.keys({"params": {"dense": {"alpha": np.zeros(3)}}}, ())


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The example of docs/your_teacher.md of an architecture of one's own, run on a file: (its names, state dict)."""
    shapes = {"features.0.weight": (8, 3, 3, 3), "features.0.bias": (8,)}
    shapes |= {f"features.1.{leaf}": (8,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    shapes |= {"features.1.num_batches_tracked": (), "classifier.weight": (10, 8 * 16 * 16), "classifier.bias": (10,)}
    state = {key: zoo_weights.array(key, shape) for key, shape in shapes.items()}
    torch_files.write(tmp_path / "my_net.safetensors", state)
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "docs" / "your_teacher.md").read_text()
    names, code = {"__name__": "__main__"}, text.split("<!-- own architecture -->\n```python\n")[1].split("```")[0]
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "my_module.py").write_text(code)
    exec(code, names)
    return names, state


def test_the_own_architecture_is_saved_and_exported(example):
    names, state = example
    exported = torch_layout.to_torch(names["variables"], names["layout"])
    assert exported.keys() == state.keys()
    assert all(np.array_equal(exported[key], state[key]) for key in state if "tracked" not in key)
    assert checkpoint.verify(checkpoint.newest("my_teacher"))["image_shape"] == [32, 32, 3]


def test_the_own_architecture_is_found_by_a_script_that_is_started_above_it(example, cache):
    model = "my_package.my_module:MyNet"
    flags = ("--checkpoint=my_teacher", "--output=my.stablehlo", f"--model={model}")
    script = str(Path(__file__).parents[1] / "experiments" / "export.py")
    ended = subprocess.run([sys.executable, script, *flags], env=environment(cache), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert f"{model} written to my.stablehlo" in ended.stdout


def test_the_own_architecture_has_the_logits_of_pytorch(example, rng):
    torch = pytest.importorskip("torch")
    names, state = example
    theirs = torch.nn.Sequential()
    layers = [torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
    theirs.add_module("features", torch.nn.Sequential(*layers))
    theirs.add_module("flatten", torch.nn.Flatten())
    theirs.add_module("classifier", torch.nn.Linear(8 * 16 * 16, 10))
    theirs.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    images = rng.random((2, 32, 32, 3), np.float32)
    expected = theirs.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).detach().numpy()
    found = names["MyNet"](classes=10).apply(names["variables"], images, False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
