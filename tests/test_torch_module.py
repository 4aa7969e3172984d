"""Networks of PyTorch's modules answer as PyTorch does, and report what their layers take in."""

import os
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssdkd_jax import teacher
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import torch_module
from ssdkd_jax.models import conformance, observe

torch, nets = pytest.importorskip("torch"), pytest.importorskip("torch_modules")
F, nn = torch.nn.functional, torch.nn
SHAPE, MEAN, STD = nets.SHAPE, nets.MEAN, nets.STD
calls = nets.calls


@pytest.fixture(scope="module", params=[nets.Block, nets.Pixels])
def converted(request):
    """A module of BatchNorms, its network and variables."""
    module = nets.randomised(request.param())
    return module, *torch_module.network(module, SHAPE, MEAN, STD)


@pytest.fixture(scope="module")
def block():
    """A classifier, its network and variables."""
    module = nets.randomised(nets.Block())
    return module, *torch_module.network(module, SHAPE, MEAN, STD)


def inputs_seen(module, images, kind):
    """What PyTorch's layers of a kind take in, in the order of execution."""
    seen = []
    layers = [layer for layer in module.modules() if isinstance(layer, kind)]
    hooks = [layer.register_forward_hook(lambda layer, args, _: seen.append((layer, args[0]))) for layer in layers]
    with torch.no_grad():
        module(nets.prepared(torch.from_numpy(images)))
    for hook in hooks:
        hook.remove()
    return seen


def test_the_layers_report_what_they_take_in(converted):
    (module, network, variables), images = converted, nets.pictures(3)
    seen = teacher.observe(network, variables, images)
    expected = inputs_seen(module, images, nn.modules.batchnorm._BatchNorm)
    assert len(seen.moments) == len(expected)
    for moments, (layer, x) in zip(seen.moments, expected, strict=True):
        axes = [axis for axis in range(x.ndim) if axis != 1]
        assert nets.close(moments.mean, x.mean(axes).numpy())
        assert nets.close(moments.var, x.var(axes, unbiased=False).numpy())
        np.testing.assert_array_equal(moments.running_mean, layer.running_mean)
        np.testing.assert_array_equal(moments.running_var, layer.running_var)
    dense = inputs_seen(module, images, nn.Linear)
    for found, (_, x) in zip(seen.dense_inputs, dense, strict=True):
        assert nets.close(found, x.numpy())


def test_the_variables_bear_pytorchs_names_and_are_found_by_them(block):
    module, network, variables = block
    assert sorted(observe.norm_paths(variables)) == ["head/1", "norm", "stem/1"]
    np.testing.assert_array_equal(variables["params"]["stem"]["0"]["weight"], module.stem[0].weight.detach())
    np.testing.assert_array_equal(variables["batch_stats"]["head"]["1"]["var"], module.head[1].running_var)
    assert set(variables["params"]) == {"stem", "conv", "norm", "head"}
    assert conformance.misplaced(variables) == []
    images = nets.pictures(conformance.IMAGES)

    def seen(variables, images):
        found = teacher.observe(network, variables, images)
        return found.logits, found.moments

    assert conformance.unseen(jax.jit(seen), variables, images) == []
    assert conformance.answers(jax.jit(seen), variables, images) == []
    assert conformance.unsteady(network, variables, images) == []
    zeros = network.init(jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), zeros) == jax.tree.map(lambda x: (x.shape, x.dtype), variables)
    with pytest.raises(InputError, match="not trained"):
        network.train(variables, images)


def test_a_network_without_batch_norm_has_no_statistics():
    _, variables = torch_module.network(calls(lambda x, layer: layer(x), nn.Linear(8, 2)), SHAPE, MEAN, STD)
    assert set(variables) == {"params"}


@pytest.mark.parametrize("batch", [1, 3])
def test_whole_networks_answer_as_pytorch_for_any_batch(converted, batch):
    (module, network, variables), images = converted, nets.pictures(batch)
    weights = np.array([[1, -0.5, 2]], np.float32)
    found = nets.of_jax(network, variables, images, weights)
    expected = nets.of_pytorch(module, images, weights)
    assert nets.close(found[0], expected[0]) and nets.close(found[1][0], expected[1][0])
    mapped = jax.vmap(lambda x: network.apply(variables, x[None])[0])(jnp.asarray(images))
    assert nets.close(mapped, expected[0])


def test_pytorch_is_not_needed_once_the_network_is_there(block, monkeypatch):
    _, network, variables = block
    monkeypatch.setitem(sys.modules, "torch", None)
    assert jax.jit(network.apply)(variables, nets.pictures(2)).shape == (2, 3)
    assert all(isinstance(leaf, np.ndarray) and leaf.dtype == np.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_users_module_stays_as_it_is(dtype):
    module = nets.randomised(nets.Block()).to(dtype).train()
    module.stem.eval()
    before = {name: x.clone() for name, x in module.state_dict().items()}
    modes = [layer.training for layer in module.modules()]
    network, variables = torch_module.network(module, SHAPE, MEAN, STD)
    assert [layer.training for layer in module.modules()] == modes
    after = module.state_dict()
    assert all(torch.equal(x, after[name]) and x.dtype == after[name].dtype for name, x in before.items())
    logits = module.float().eval()(nets.prepared(torch.from_numpy(nets.pictures(2))))
    assert nets.close(jax.jit(network.apply)(variables, nets.pictures(2)), logits.detach().numpy())


def test_wrapped_modules_are_unwrapped():
    for wrap in (torch.compile, nn.DataParallel):
        _, variables = torch_module.network(wrap(calls(lambda x, n: n(x), nn.BatchNorm2d(4))), SHAPE, (0.5,), (0.25,))
        assert observe.norm_paths(variables) == ["layers/0"]


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_weights_that_are_computed_are_computed_in_jax(norm):
    layer = getattr(nn.utils.parametrizations, norm)(nn.Linear(8, 3))
    module = nets.Calls(lambda x, layer: layer(x), layer).eval()
    network, variables = torch_module.network(module, SHAPE, MEAN, STD)
    logits = module(nets.prepared(torch.from_numpy(nets.pictures(2))))
    assert nets.close(jax.jit(network.apply)(variables, nets.pictures(2)), logits.detach().numpy())
    assert len(teacher.observe(network, variables, nets.pictures(2)).dense_inputs) == 1


class Sorting(nn.Module):
    def forward(self, x):
        return torch.sort(torch.fft.fft(x).abs().flatten(1))[0]


class Returns(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


REMEDY = r"write the network in flax, or use Teacher.from_function\."


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sequential(nn.ReLU(), Sorting())),
            r"module Sequential calls .*aten::fft_fft in 1\.1 \(Sorting\), aten::sort in 1\.1 \(Sorting\); " + REMEDY,
        ),
        (calls(lambda x: F.dropout(x)), r"aten::native_dropout in forward \(Calls\); " + REMEDY),
        (calls(lambda x: x * 2 if x.sum() > 0 else x), "torch.export cannot trace the module Calls .*" + REMEDY),
        (calls(lambda x: x.reshape(3, -1)), "torch.export cannot trace the module Calls for batches of any size"),
        (Returns(lambda x: (x.flatten(1), x)), "module Returns returns a tuple and not one tensor of logits; wrap"),
        (Returns(lambda x: {"logits": x}), "module Returns returns a dict and not one tensor"),
        (Returns(lambda x: x.flatten()), r"returns \[672\] for images \[3, 4, 7, 8\]; let it return logits \[B, C\]"),
        (Returns(lambda x: F.avg_pool2d(x, 2)), r"returns \[3, 4, 3, 4\] .*the images' height and width"),
        (nn.Conv2d(3, 4, 1), r"does not take images \[B, D, H, W\] = \[3, 4, 7, 8\] .*to have 3 channels.*image_shape"),
        (calls(lambda x: (x - 100).log()), "answers NaN or infinity"),
        (np.tanh, "is a ufunc and no torch.nn.Module"),
    ],
)
def test_what_cannot_be_converted_is_told_in_one_sentence(module, said):
    with pytest.raises(InputError, match=said) as told:
        torch_module.network(module, SHAPE, MEAN, STD)
    assert str(told.value).endswith(".") and "\n" not in str(told.value)


def test_shapes_that_do_not_fit_are_told(block):
    with pytest.raises(InputError, match=r"image_shape = \(7, 8\) is not"):
        torch_module.network(nets.Block(), (7, 8), MEAN, STD)
    with pytest.raises(InputError, match="do not normalise 4 channels"):
        torch_module.network(nets.Block(), SHAPE, (0.1, 0.2), (0.3,))
    _, network, variables = block
    with pytest.raises(InputError, match=re.escape("but the network takes [B, 7, 8, 4]")):
        network.apply(variables, nets.pictures(2, (8, 7, 4)))


def test_logits_that_are_not_pytorchs_are_refused(monkeypatch):
    known = torch_module.torch_trace.OPERATORS
    monkeypatch.setattr(torch_module.torch_trace, "OPERATORS", {**known, "relu": lambda self: abs(self)})
    with pytest.raises(InputError, match=r"logits of the module Block in jax differ from PyTorch's by [\d.]+"):
        torch_module.network(nets.randomised(nets.Block()), SHAPE, MEAN, STD)


def test_an_operator_that_fails_in_jax_is_named_with_its_place(monkeypatch):
    known = torch_module.torch_trace.OPERATORS
    monkeypatch.setattr(torch_module.torch_trace, "OPERATORS", {**known, "relu": lambda self: self + "1"})
    with pytest.raises(InputError, match=r"operator aten::relu in forward \(Block\) fails in jax .*; write"):
        torch_module.network(nets.randomised(nets.Block()), SHAPE, MEAN, STD)


class Stranger(nn.Module):
    """A stranger's network: two convolutions and two dense layers, with BatchNorm and dropout or without."""

    def __init__(self, norms, side):
        super().__init__()
        layers, channels = [], 1
        for features in (32, 64):
            norm = [nn.BatchNorm2d(features)] if norms else []
            layers += [nn.Conv2d(channels, features, 3, padding=1), *norm, nn.ReLU(), nn.MaxPool2d(2)]
            channels = features
        drop = [nn.Dropout(0.3)] if norms else []
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(*drop, nn.Linear(4 * side**2, 128), nn.ReLU(), *drop, nn.Linear(128, 10))

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


@pytest.mark.parametrize(
    ("name", "side", "mean", "std"), [("mnist_cnn", 28, 0.1307, 0.3081), ("usps_cnn", 16, 0.2471, 0.2994)]
)
def test_strangers_networks_answer_as_pytorch(name, side, mean, std):
    folder = os.environ.get("SSDKD_TEACHERS")
    if not folder or not (Path(folder) / f"{name}.pth").is_file():
        pytest.skip("SSDKD_TEACHERS names no folder with the strangers' networks")
    norms = name == "usps_cnn"
    module = Stranger(norms, side).eval()
    module.load_state_dict(torch.load(Path(folder) / f"{name}.pth", weights_only=True))
    network, variables = torch_module.network(module, (side, side, 1), (mean,), (std,))
    images = nets.pictures(5, (side, side, 1))
    with torch.no_grad():
        expected = module((torch.from_numpy(images).permute(0, 3, 1, 2) - mean) / std).numpy()
    assert nets.close(jax.jit(network.apply)(variables, images), expected, 1e-4)
    assert len(teacher.observe(network, variables, images).moments) == (2 if norms else 0)
