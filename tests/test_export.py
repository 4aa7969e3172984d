"""Import and export as scripts, and the artefact in a process that knows jax alone."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from test_scripts import finish, start
from test_torch_files import Payload
from test_torch_parity import shapes, zoo_state

from ssdkd_jax import models
from ssdkd_jax.interop import saved, stablehlo, torch_files, torch_layout

NAME = "wrn10_1"
MEAN, STD = (0.4, 0.5), (0.2, 0.3)
ALONE = """
import sys
import numpy as np
from jax import export

call = export.deserialize(bytearray(open(sys.argv[1], "rb").read())).call
images = np.load(sys.argv[2])
for batch in (1, 7, 64):
    np.save(f"{sys.argv[3]}/{batch}.npy", np.asarray(call(images[:batch])))
assert not {name for name in sys.modules if name.split(".")[0] in ("ssdkd_jax", "flax", "torch")}
"""


@pytest.fixture(scope="module")
def variables():
    return torch_layout.from_torch(zoo_state(NAME), shapes(NAME), torch_layout.of(NAME))


@pytest.fixture(scope="module")
def network():
    return models.bind(models.by_name(NAME, 7), (8, 12, 2), MEAN, STD)


def run(script, *arguments, cache):
    return finish(start(cache, script, *arguments, config=None))


@pytest.mark.parametrize("kind", stablehlo.INPUTS)
def test_the_artefact_gives_the_same_logits_where_jax_is_alone(tmp_path, variables, network, rng, kind):
    raw = rng.integers(0, 256, (64, 8, 12, 2), np.uint8)
    unit = raw / np.float32(255)
    artefact = stablehlo.serialize(network, variables, (8, 12, 2), kind)
    (tmp_path / "model.stablehlo").write_bytes(artefact)
    np.save(tmp_path / "images.npy", raw if kind == "uint8" else unit)
    paths = [str(tmp_path / name) for name in ("model.stablehlo", "images.npy", "")]
    subprocess.run([sys.executable, "-c", ALONE, *paths], check=True, timeout=300)
    expected = np.asarray(jax.jit(network.apply)(variables, unit))
    for batch in (1, 7, 64):
        found = np.load(tmp_path / f"{batch}.npy")
        np.testing.assert_allclose(found, expected[:batch], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(found.argmax(-1), expected[:batch].argmax(-1))


@pytest.mark.parametrize("name", ["resnet18", "vgg8", "mobilenetv2"])
def test_every_family_exports_for_any_batch(name):
    module = models.bind(models.by_name(name, 3), (16, 16, 1))
    like = jax.eval_shape(module.init, jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    exported = jax.export.deserialize(bytearray(stablehlo.serialize(module, zeros, (16, 16, 1), "float32")))
    assert str(exported.in_avals[-1]) == "float32[B,16,16,1]"
    assert str(exported.out_avals[0]) == "float32[B,3]"


def test_other_images_are_refused(variables, network):
    with pytest.raises(ValueError, match="Images of type 'int8' are not known; use uint8 or float32"):
        stablehlo.serialize(network, variables, (8, 12, 2), "int8")


def test_scripts_take_a_file_in_and_the_same_file_out(tmp_path, variables, cache, rng):
    state = torch_layout.to_torch(variables, torch_layout.of(NAME))
    torch_files.write(tmp_path / "in.safetensors", {f"module._orig_mod.{key}": state[key] for key in state})
    folder, norm = tmp_path / "model", ("--mean=0.4,0.5", "--std=0.2,0.003", "--image_size=8,12")
    arguments = (f"--checkpoint={tmp_path / 'in.safetensors'}", f"--output={folder}")
    code, out, err = run("import_torch.py", *arguments, *norm, "--unusual_normalisation", cache=cache)
    assert code == 0, err
    assert "taken off (module., _orig_mod.)." in out
    assert f"{NAME} (recognised by its keys), 7 classes, images 8x12x2" in out
    loaded, images = saved.load(folder), rng.random((3, 8, 12, 2), np.float32)
    meant = models.bind(models.by_name(NAME, 7), (8, 12, 2), MEAN, (0.2, 0.003))
    np.testing.assert_allclose(loaded(images), jax.jit(meant.apply)(variables, images), rtol=1e-5, atol=1e-5)

    outputs = [f"--output={tmp_path / name}" for name in ("out.safetensors", "out.stablehlo")]
    exports = [start(cache, "export.py", f"--checkpoint={folder}", output, config=None) for output in outputs]
    _, (code, out, err) = map(finish, exports)
    assert code == 0, err
    exported = torch_files.read(tmp_path / "out.safetensors")
    assert exported.keys() == state.keys()
    assert all(np.array_equal(exported[key], state[key]) for key in state)
    assert "uint8 images [B, 8, 12, 2]" in out


@pytest.mark.slow
def test_a_pickle_that_would_run_something_is_one_sentence_and_writes_nothing(tmp_path, cache):
    torch, trap = pytest.importorskip("torch"), tmp_path / "trap"
    torch.save({"state_dict": Payload(trap)}, tmp_path / "in.pth")
    arguments = (f"--checkpoint={tmp_path / 'in.pth'}", f"--output={tmp_path / 'model'}", "--mean=0", "--std=1")
    code, _, err = run("import_torch.py", *arguments, cache=cache)
    assert code == 1
    assert "Traceback" not in err
    assert "nothing in it was run" in err.strip().splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--mean=0.4,0.5,0.6", "--std=1"), "do not normalise 2 channels; give 1 or 2 numbers"),
        (("--mean=0.4", "--std=0"), "with std above 0"),
        (("--mean=0.4", "--std=nan"), "with std above 0"),
        (("--mean=77.85", "--std=95.88"), "if they are of images in [0, 255], divide them by 255"),
        (("--mean=0.0012", "--std=0.0014"), "if they were divided by 255 twice, multiply them by 255"),
        (("--mean=0", "--std=1", "--image_size=-4"), "--image_size=-4 is no size"),
        (("--mean=a", "--std=1"), "--mean=a is not a list of numbers"),
        (("--mean=0", "--std=1", "--image_size=30"), "WRN takes image sizes divisible by 4"),
        (("--mean=0", "--std=1", "--model=wrn16x1"), "did you mean 'wrn16_1'"),
        (("--mean=0", "--std=1", "--model=resnet18"), "They look like those of 'wrn10_1'"),
    ],
)
@pytest.mark.slow
def test_a_refused_import_is_one_sentence_and_writes_nothing(tmp_path, cache, variables, flags, sentence):
    torch_files.write(tmp_path / "in.safetensors", torch_layout.to_torch(variables, torch_layout.of(NAME)))
    arguments = (f"--checkpoint={tmp_path / 'in.safetensors'}", f"--output={tmp_path / 'model'}")
    code, _, err = run("import_torch.py", *arguments, *flags, cache=cache)
    assert code == 1
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert sentence in last
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]
