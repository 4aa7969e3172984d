"""Checkpoint files: whole ones in every wrapping, and broken or hostile ones."""

import collections
import json
import os
import struct
import zipfile

import jax
import numpy as np
import pytest
import tiny
from test_torch_parity import shapes, zoo_state

from ssdkd_jax.interop import torch_files, torch_import, torch_layout

NAME = "wrn16_1"


@pytest.fixture(scope="module")
def state():
    return zoo_state(NAME)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def save(torch, path, state, **settings):
    torch.save({key: torch.from_numpy(value) for key, value in state.items()}, path, **settings)
    return path


def header(path, tensors, content=b""):
    """A .safetensors file with a header of one's own."""
    text = json.dumps(tensors).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


@pytest.mark.parametrize("wrap", ["bare", "state_dict", "model", "module"])
@pytest.mark.parametrize("legacy", [False, True])
def test_every_wrapping_of_a_pytorch_file(torch, state, tmp_path, wrap, legacy):
    tensors = {("module." if wrap == "module" else "") + key: torch.from_numpy(v) for key, v in state.items()}
    content = collections.OrderedDict(tensors)
    if wrap in ("state_dict", "model"):
        content = {"epoch": 3, "best_acc1": 93.2, wrap: content, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "model.pth", _use_new_zipfile_serialization=not legacy)
    found = torch_import.load(tmp_path / "model.pth")
    assert (found.model, found.classes, found.channels) == (NAME, 7, 2)
    assert tiny.tree_equal(found.variables, torch_layout.from_torch(state, shapes(NAME), torch_layout.of(NAME)))


def test_bfloat16_and_parameters_are_read(torch, state, tmp_path):
    tensors = {key: torch.from_numpy(value) for key, value in state.items()}
    tensors["fc.bias"] = torch.nn.Parameter(tensors["fc.bias"].bfloat16())
    torch.save(tensors, tmp_path / "model.pt")
    found = torch_import.load(tmp_path / "model.pt").variables
    np.testing.assert_allclose(found["params"]["fc"]["bias"], state["fc.bias"], rtol=1e-2)


def test_an_exported_pytorch_file_loads_into_the_peers_definition(torch, state, tmp_path):
    import torch_zoo

    variables = torch_layout.from_torch(state, shapes(NAME), torch_layout.of(NAME))
    torch_files.write(tmp_path / "model.pth", torch_layout.to_torch(variables, torch_layout.of(NAME)))
    definition = torch_zoo.by_name(NAME, 7, 2)
    definition.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True), strict=True)
    assert all(np.array_equal(v.numpy(), state[k]) for k, v in definition.state_dict().items() if "tracked" not in k)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_the_weights_are_in_memory_once(torch, state, tmp_path):
    """Arrays come out of the file one by one: what is read of it is a view of the file itself."""
    save(torch, tmp_path / "model.pth", state)
    tensor = torch_files.read(tmp_path / "model.pth")["fc.weight"]
    assert not tensor.read().flags.owndata
    assert np.shares_memory(tensor.read(), tensor.read())


class Payload:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_something_runs_nothing(torch, state, tmp_path, legacy):
    trap = tmp_path / "trap"
    content = {"state_dict": {key: torch.from_numpy(value) for key, value in state.items()}, "x": Payload(trap)}
    torch.save(content, tmp_path / "model.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"not a whole PyTorch file of plain tensors .*nothing in it was run"):
        torch_import.load(tmp_path / "model.pth")
    assert not trap.exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 5000, -100])
def test_a_pytorch_file_cut_short(torch, state, tmp_path, keep):
    path = save(torch, tmp_path / "model.pth", state)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="not a whole PyTorch file"):
        torch_files.read(path)


def test_a_compressed_archive_is_not_unpacked(torch, state, tmp_path):
    path = save(torch, tmp_path / "plain.pth", state)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(ValueError, match="not a whole PyTorch file"):
        torch_files.read(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    "shape", [(2**40, 64), (2**50, 0)], ids=["repeated", "empty"]
)  # strides of 0 and an empty axis need no memory
def test_a_giant_declared_shape_in_a_pytorch_file(torch, state, tmp_path, shape):
    tensors = {key: torch.from_numpy(value) for key, value in state.items()}
    tensors["fc.weight"] = torch.zeros(1, 1).expand(shape) if shape[1] else torch.zeros(shape)
    torch.save(tensors, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="numbers but has fewer bytes"):
        torch_import.load(tmp_path / "model.pth")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda torch: 3.0,
        lambda torch: "weights",
        lambda torch: [1.0],
        lambda torch: torch.zeros(3, dtype=torch.complex64),
        lambda torch: torch.zeros(3, 3).to_sparse(),
        lambda torch: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
    ],
)
def test_something_else_among_the_tensors(torch, state, tmp_path, wrong):
    content = {key: torch.from_numpy(value) for key, value in state.items()} | {"fc.weight": wrong(torch)}
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"'fc\.weight' .* is not a dense tensor|not a whole PyTorch file"):
        torch_files.read(tmp_path / "model.pth")


@pytest.mark.parametrize("content", [[1, 2], 3, {}, {"state_dict": {}}])
def test_no_state_dict_at_all(torch, tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        torch_files.read(tmp_path / "model.pth")


def test_a_pytorch_that_could_be_made_to_run_code_is_refused(torch, state, tmp_path, monkeypatch):
    path = save(torch, tmp_path / "model.pth", state)
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.9.1+cpu"))
    with pytest.raises(ValueError, match=r"PyTorch 2\.9\.1\+cpu .* install 2\.10 or newer"):
        torch_files.read(path)


def test_without_pytorch_its_files_name_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "model.pth").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"need PyTorch: pip install 'ssdkd_jax\[torch\]'"):
        torch_files.read(tmp_path / "model.pth")


@pytest.mark.parametrize("keep", [0, 4, 100, -10])
def test_a_safetensors_file_cut_short(state, tmp_path, keep):
    torch_files.write(tmp_path / "model.safetensors", state)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:keep])
    with pytest.raises(ValueError, match=r"not a whole \.safetensors file"):
        torch_files.read(tmp_path / "model.safetensors")


@pytest.mark.parametrize("shape", [[2**40, 64], [2**62, 2**62], [10**30]])
def test_a_giant_declared_shape_in_a_safetensors_file(tmp_path, shape):
    tensors = {"fc.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}
    with pytest.raises(ValueError, match=r"not a whole \.safetensors file"):
        torch_files.read(header(tmp_path / "model.safetensors", tensors, b"\0" * 4))


def test_an_empty_axis_in_a_safetensors_file(tmp_path):
    tensors = {"fc.weight": {"dtype": "F32", "shape": [2**40, 0], "data_offsets": [0, 0]}}
    with pytest.raises(ValueError, match="numbers but has fewer bytes"):
        torch_files.read(header(tmp_path / "model.safetensors", tensors))


def test_a_type_that_numpy_does_not_know(tmp_path):
    tensors = {"fc.weight": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    with pytest.raises(ValueError, match="numbers of type BF16; save it in float32"):
        torch_files.read(header(tmp_path / "model.safetensors", tensors, b"\0" * 4))


def test_another_architecture_names_the_one_it_looks_like(state, tmp_path):
    torch_files.write(tmp_path / "model.safetensors", state)
    with pytest.raises(ValueError, match=r"as a 'vgg11': .*missing: .*They look like those of 'wrn16_1'\."):
        torch_import.load(tmp_path / "model.safetensors", model="vgg11")


def test_no_architecture_of_the_zoo(tmp_path):
    torch_files.write(tmp_path / "model.safetensors", {"layer.weight": np.zeros((3, 3), np.float32)})
    with pytest.raises(ValueError, match=r"\(layer\.weight\) are those of no model of the zoo"):
        torch_import.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["model.zip", "model"])
def test_another_ending(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"is no checkpoint of a known kind, and only"):
        torch_files.read(tmp_path / name)
    with pytest.raises(ValueError, match=r"does not end in \.pth, \.pt or \.safetensors"):
        torch_files.write(tmp_path / name, {})


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="No checkpoint"):
        torch_files.read(tmp_path / "model.pth")


def test_variables_of_a_checkpoint_are_plain_arrays(state, tmp_path):
    torch_files.write(tmp_path / "model.safetensors", state)
    leaves = jax.tree.leaves(torch_import.load(tmp_path / "model.safetensors").variables)
    assert all(type(leaf) is np.ndarray and leaf.flags.c_contiguous and leaf.flags.owndata for leaf in leaves)
