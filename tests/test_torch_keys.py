"""Checkpoints as tools leave them: wrapped keys, counters, torchvision's names, and files that are no checkpoint."""

import io
import zipfile

import numpy as np
import pytest
import tiny
from test_torch_parity import shapes, zoo_state

from ssdkd_jax.interop import torch_files, torch_import, torch_keys, torch_layout

NAME = "wrn16_1"
PREFIXES = ("module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "model.net.")


@pytest.fixture(scope="module")
def state():
    return zoo_state(NAME)


def expected(state, name=NAME):
    return torch_layout.from_torch(state, shapes(name), torch_layout.of(name))


def imported(folder, state):
    torch_files.write(folder / "model.safetensors", state)
    return torch_import.load(folder / "model.safetensors")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_wrappers_prefix_is_taken_off_and_said(tmp_path, state, prefix):
    found = imported(tmp_path, {prefix + key: value for key, value in state.items()})
    assert found.model == NAME
    assert tiny.tree_equal(found.variables, expected(state))
    assert len(found.remarks) == 1
    assert all(name in found.remarks[0] for name in prefix.split(".")[:-1])


def test_what_needs_no_change_is_not_remarked_on(tmp_path, state):
    assert imported(tmp_path, state).remarks == ()


def test_a_part_that_was_compiled_by_itself(tmp_path, state):
    parts = {key.replace("block2.", "block2._orig_mod."): value for key, value in state.items()}
    assert tiny.tree_equal(imported(tmp_path, parts).variables, expected(state))


def test_counters_are_dropped_and_said(tmp_path, state):
    counted = {f"module.{key}": value for key, value in state.items()} | {"n_averaged": np.asarray(7)}
    counted |= {f"module.{part}total_{kind}": np.ones(1) for part in ("", "block1.") for kind in ("ops", "params")}
    found = imported(tmp_path, counted | {"num_updates": np.asarray(3)})
    assert tiny.tree_equal(found.variables, expected(state))
    assert found.remarks[0].endswith("dropped: n_averaged, num_updates, total_ops, total_params.")
    assert "(module.)" in found.remarks[1]


def test_an_own_architecture_keeps_a_name_that_all_its_keys_begin_with():
    keys = ("features.0.weight", "features.1.weight")
    wrapped = {f"module.model.{key}": np.zeros((3, 3)) for key in keys}
    assert torch_keys.cleaned(wrapped).state.keys() == set(keys)


@pytest.mark.parametrize("keys", [("total_ops",), ("a._orig_mod.weight", "a.weight")])
def test_nothing_left_or_two_keys_that_become_one(keys):
    with pytest.raises(ValueError, match="holds no state dict of one model"):
        torch_keys.cleaned({key: np.zeros(3) for key in keys})


def torchvisions(state):
    """The keys of torchvision's ResNet."""
    names = (("linear.", "fc."), (".shortcut.", ".downsample."))
    for ours, theirs in names:
        state = {key.replace(ours, theirs): value for key, value in state.items()}
    return state


def test_torchvisions_names_of_a_small_resnet_are_read(tmp_path):
    state = zoo_state("resnet18")
    theirs = torchvisions(state)
    assert "fc.bias" in theirs
    found = imported(tmp_path, theirs)
    assert found.model == "resnet18"
    assert tiny.tree_equal(found.variables, expected(state, "resnet18"))
    assert "fc as linear, downsample as shortcut" in found.remarks[0]
    assert "no max-pooling" in found.remarks[0]


def test_torchvisions_resnet_of_large_images_is_named_as_that(tmp_path):
    theirs = torchvisions(zoo_state("resnet18"))
    theirs["conv1.weight"] = np.zeros((64, 3, 7, 7), np.float32)
    with pytest.raises(ValueError, match=r"torchvision's ResNet for large images, with a 7x7 stem"):
        imported(tmp_path, {f"module.{key}": value for key, value in theirs.items()})


def zipped(name, content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize("suffix", [".h5", ".keras", ".onnx", ".npz", ".pb", ".pth", ""])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "an HDF5 file, as of Keras"),
        (b"\x08\x07\x12\x07pytorch" + bytes(50), "a protocol buffer, as of ONNX"),
        (b"\x93NUMPY" + bytes(50), "a numpy array"),
        (zipped("fc.weight.npy", bytes(50)), "numpy's archive"),
        (zipped("model.weights.h5", bytes(50)), "an archive of Keras"),
    ],
)
def test_a_file_of_another_tool_is_told_what_it_is(tmp_path, suffix, content, kind):
    path = tmp_path / f"teacher{suffix}"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"is {kind}.* only state dicts .* write its arrays to a \.safetensors"
    ) as error:
        torch_import.load(path)
    assert "rename" not in str(error.value)


@pytest.mark.parametrize("name", ["model.bin", "model.ckpt", "model.pth", "model"])
def test_safetensors_are_read_whatever_they_are_called(tmp_path, state, name):
    torch_files.write(tmp_path / "x.safetensors", state)
    (tmp_path / "x.safetensors").rename(tmp_path / name)
    assert tiny.tree_equal(torch_import.load(tmp_path / name).variables, expected(state))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["model.bin", "model.ckpt", "model"])
def test_a_pytorch_file_is_read_whatever_it_is_called(tmp_path, state, name, legacy):
    torch = pytest.importorskip("torch")
    content = {"model": {"state_dict": {key: torch.from_numpy(value) for key, value in state.items()}}, "epoch": 3}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    assert tiny.tree_equal(torch_import.load(tmp_path / name).variables, expected(state))
    (tmp_path / name).rename(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"is a file of PyTorch's; rename it to \.pth"):
        torch_files.read(tmp_path / "model.safetensors")
