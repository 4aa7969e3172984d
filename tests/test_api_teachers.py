"""Teachers of every origin: they teach digits without data, are saved, exported and compared."""

import functools

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from calls import SMALL, flat
from flax import nnx

import ssdkd_jax
from ssdkd_jax import data, models
from ssdkd_jax.interop import torch_files, torch_layout

NORMAL = {"image_shape": (16, 16, 1), "mean": (0.3053,), "std": (0.376,)}

pytestmark = pytest.mark.usefixtures("one_device")


class Net(nn.Module):
    """A user's own: a strided convolution with BatchNorm, and a head."""

    classes: int = 10

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(12, (5, 5), strides=(2, 2), padding=((2, 2), (2, 2)), name="conv")(images)
        x = nn.relu(nn.BatchNorm(not train, momentum=0.9, name="norm")(x))
        return nn.Dense(self.classes, name="head")(x.reshape(x.shape[0], -1))


class NnxNet(nnx.Module):
    """The same as an NNX module."""

    def __init__(self, rngs):
        padding = ((2, 2), (2, 2))
        self.conv = nnx.Conv(1, 12, (5, 5), strides=(2, 2), padding=padding, rngs=rngs)
        self.norm = nnx.BatchNorm(12, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(8 * 8 * 12, 10, rngs=rngs)

    def __call__(self, images):
        x = nnx.relu(self.norm(self.conv(images)))
        return self.head(x.reshape(x.shape[0], -1))


@functools.cache
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def weights():
    """Those of a `Net` that reads digits."""
    network, images = models.bind(Net(), (16, 16, 1), (0.3053,), (0.376,)), digits().train_images / np.float32(255)
    variables, tx = jax.jit(network.init)(jax.random.key(0)), optax.adam(3e-3)

    @jax.jit
    def step(variables, opt_state, x, y):
        def loss(params):
            logits, updated = network.train({**variables, "params": params}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), updated

        grads, updated = jax.grad(loss, has_aux=True)(variables["params"])
        updates, opt_state = tx.update(grads, opt_state)
        return {**updated, "params": optax.apply_updates(variables["params"], updates)}, opt_state

    opt_state = tx.init(variables["params"])
    for at in np.random.default_rng(0).integers(0, len(images), (150, 64)):
        variables, opt_state = step(variables, opt_state, images[at], digits().train_labels[at])
    return variables


def saved_folder(weights, tmp_path):
    ssdkd_jax.Teacher.from_linen(Net(), weights, **NORMAL).save(tmp_path / "teacher")
    return ssdkd_jax.Teacher.load(tmp_path / "teacher", "test_api_teachers:Net")


def torch_file(weights, tmp_path):
    network = models.bind(models.by_name("wrn10_1", 10), (16, 16, 1))
    state = torch_layout.to_torch(network.init(jax.random.key(0)), torch_layout.of("wrn10_1"))
    torch_files.write(tmp_path / "net.safetensors", state)
    return ssdkd_jax.Teacher.from_torch(tmp_path / "net.safetensors", mean=[0.3053], std=[0.376], image_size=16)


def torch_module(weights, tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 12, 5, 2, 2), torch.nn.BatchNorm2d(12), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(768, 10),
    )  # fmt: skip
    params, kept = jax.tree.map(np.array, (weights["params"], weights["batch_stats"]["norm"]))
    head = params["head"]["kernel"].reshape(8, 8, 12, 10).transpose(3, 2, 0, 1).reshape(10, -1)
    state = {
        "0.weight": params["conv"]["kernel"].transpose(3, 2, 0, 1), "0.bias": params["conv"]["bias"],
        "1.weight": params["norm"]["scale"], "1.bias": params["norm"]["bias"],
        "1.running_mean": kept["mean"], "1.running_var": kept["var"], "1.num_batches_tracked": np.array(1),
        "4.weight": head, "4.bias": params["head"]["bias"],
    }  # fmt: skip
    module.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    return ssdkd_jax.Teacher.from_torch_module(module, **NORMAL)


def linen(weights, tmp_path):
    return ssdkd_jax.Teacher.from_linen(Net(), weights, **NORMAL)


def nnx_module(weights, tmp_path):
    module = NnxNet(nnx.Rngs(0))
    nnx.update(module, nnx.state(module))
    for layer in ("conv", "norm", "head"):
        for name, value in weights["params"][layer].items():
            getattr(getattr(module, layer), name)[...] = value
    for name, value in weights["batch_stats"]["norm"].items():
        getattr(module.norm, name)[...] = value
    return ssdkd_jax.Teacher.from_nnx(module, **NORMAL)


def function(weights, tmp_path):
    def apply(v, x):
        conv, norm, head = (v["params"][name] for name in ("conv", "norm", "head"))
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, conv["kernel"], (2, 2), ((2, 2), (2, 2)), dimension_numbers=numbers)
        mean, var = (v["batch_stats"]["norm"][name] for name in ("mean", "var"))
        x = norm["scale"] * (x + conv["bias"] - mean) / jnp.sqrt(var + 1e-5) + norm["bias"]
        return jax.nn.relu(x).reshape(len(x), -1) @ head["kernel"] + head["bias"]

    return ssdkd_jax.Teacher.from_function(apply, weights, **NORMAL)


@pytest.mark.parametrize("make", [saved_folder, torch_file, torch_module, linen, nnx_module, function])
def test_a_teacher_of_each_kind_teaches_digits_without_data(make, weights, tmp_path, capsys):
    teacher, test = make(weights, tmp_path), (digits().test_images, digits().test_labels)
    if make is not torch_file:  # which nobody has trained
        expected = linen(weights, tmp_path)(test[0][:50])
        np.testing.assert_allclose(teacher(test[0][:50]), expected, atol=2e-3 * float(jnp.abs(expected).max()))
    seen = {function: "no BatchNorm that can be seen", torch_file: "7 BatchNorms"}.get(make, "1 BatchNorms")
    assert seen in capsys.readouterr().err

    config = ssdkd_jax.default_config(teacher, Net())
    config.student.update(batch=32, lr=0.05)
    config.synthesis.update(batch=32, inner_steps=2, width=8)
    config.schedule.update(rounds=5, warmup=1, distill_steps=20)
    config.buffer.size = 96
    assert config.student.start == "teacher" and (config.method.name == "ssdkd") == (make is not function)
    distilled = ssdkd_jax.distill(teacher, Net(), config, evaluate=test)
    assert distilled.finished and distilled.student(test[0][:3]).shape == (3, 10)
    assert {"agreement", "fresh_kl", "fresh_confidence", "fresh_balance"} <= distilled.indicators.keys()
    assert ("fresh_bn" in distilled.indicators) == (make is not function)
    known, last = distilled.summary, distilled.history[-1]
    assert known["student_accuracy"] == last["accuracy"] and known["score"] == "accuracy"
    right = np.mean(np.argmax(distilled.student(test[0]), -1) == test[1])
    np.testing.assert_allclose(right, last["accuracy"], atol=1e-6)
    if make not in (torch_file, function):
        assert known["teacher_accuracy"] > 0.9 and last["accuracy"] > 0.3  # chance is 0.1


class Wide(nn.Module):
    """A user's own that takes more than its classes."""

    width: int

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(3)(nn.relu(nn.Dense(self.width)(images.reshape(images.shape[0], -1))))


def test_a_network_of_ones_own_is_saved_and_loaded_by_itself(tmp_path, rng):
    images = rng.integers(0, 256, (5, *tiny.SHAPE), np.uint8)
    weights = Wide(7).init(jax.random.key(0), jnp.zeros((1, *tiny.SHAPE)), False)
    made = ssdkd_jax.Teacher.from_linen(Wide(7), weights, **SMALL)
    made.save(tmp_path / "linen")
    np.testing.assert_array_equal(ssdkd_jax.Teacher.load(tmp_path / "linen", Wide(7))(images), made(images))
    with pytest.raises(ssdkd_jax.InputError, match=r"is not made by `classes=3` alone .* hand the module itself over"):
        ssdkd_jax.Teacher.load(tmp_path / "linen", "test_api_teachers:Wide")
    with pytest.raises(ssdkd_jax.InputError, match=r"'params\.Dense_0\.kernel' has shape"):
        ssdkd_jax.Teacher.load(tmp_path / "linen", Wide(8))
    module = NnxNet(nnx.Rngs(0))
    made = ssdkd_jax.Teacher.from_nnx(module, **NORMAL)
    made.save(tmp_path / "nnx")
    images = rng.integers(0, 256, (5, 16, 16, 1), np.uint8)
    np.testing.assert_array_equal(ssdkd_jax.load(tmp_path / "nnx", NnxNet(nnx.Rngs(1)))(images), made(images))


def test_a_function_is_exported_but_not_saved(tmp_path):
    teacher = ssdkd_jax.Teacher.from_function(flat, np.ones((64, 3), np.float32), image_shape=(8, 8, 1))
    with pytest.raises(ssdkd_jax.InputError, match=r"'function flat' is no flax module, .* export it as .stablehlo"):
        teacher.save(tmp_path / "teacher")
    assert list(tmp_path.iterdir()) == []
    teacher.export(tmp_path / "teacher.stablehlo")
    program = jax.export.deserialize(bytearray((tmp_path / "teacher.stablehlo").read_bytes()))
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    np.testing.assert_allclose(program.call(images), teacher(images), rtol=1e-5)
    other = ssdkd_jax.Teacher.from_function(
        lambda w, x: x.reshape(len(x), -1) @ w, np.ones((64, 3), np.float32), image_shape=(8, 8, 1)
    )
    with pytest.raises(ssdkd_jax.InputError, match=r"cannot be exported for batches of any size .* not len\(x\)"):
        other.export(tmp_path / "other.stablehlo")


def test_one_number_is_the_mean_of_every_channel(rng):
    images, weights = rng.integers(0, 256, (4, 8, 8, 3), np.uint8), rng.normal(size=(192, 3)).astype(np.float32)
    shape = {"image_shape": (8, 8, 3)}
    one = ssdkd_jax.Teacher.from_function(flat, weights, mean=0.4, std=0.2, **shape)
    three = ssdkd_jax.Teacher.from_function(flat, weights, mean=[0.4] * 3, std=(0.2, 0.2, 0.2), **shape)
    np.testing.assert_array_equal(one(images), three(images))
    expected = (images / 255.0 - 0.4).reshape(4, -1) / 0.2 @ weights
    np.testing.assert_allclose(one(images), expected, rtol=1e-3, atol=1e-3)


def test_comparing_is_counting(teacher, rng):
    network = models.bind(tiny.Tiny(3), tiny.SHAPE, tiny.INPUTS.mean, tiny.INPUTS.std)
    other = ssdkd_jax.Classifier(network, network.init(jax.random.key(3)), teacher.inputs, "tiny:Tiny")
    images, labels = rng.integers(0, 256, (300, *tiny.SHAPE), np.uint8), rng.integers(0, 3, 300)
    f_t, f_s = np.asarray(teacher(images)), np.asarray(other(images))
    found = ssdkd_jax.compare(teacher, other, images, labels)
    assert found["agreement"] == np.mean(f_t.argmax(-1) == f_s.argmax(-1)) and found["images"] == 300
    np.testing.assert_allclose(found["kl"], tiny.kl(f_t, f_s).mean(), rtol=1e-4)
    np.testing.assert_allclose(found["confidence"], tiny.softmax(f_t).max(-1).mean(), rtol=1e-5)
    assert found["teacher_accuracy"] == np.mean(f_t.argmax(-1) == labels)
    assert "teacher_accuracy" not in ssdkd_jax.compare(teacher, other, images)
