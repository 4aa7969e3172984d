"""Every model of the zoo against PyTorch: recorded logits always, PyTorch itself where it is installed."""

import jax
import numpy as np
import pytest
import zoo_weights

from ssdkd_jax import models
from ssdkd_jax.interop import torch_layout


def network(name, channels=zoo_weights.CHANNELS):
    return models.bind(models.by_name(name, zoo_weights.CLASSES), (32, 32, channels))


def shapes(name):
    return jax.eval_shape(network(name).init, jax.random.key(0))


def zoo_state(name):
    """The state dict of a definition, from the keys of our layout."""
    like = shapes(name)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), like)
    empty = torch_layout.to_torch(zeros, torch_layout.of(name))
    return {key: zoo_weights.array(key, value.shape) for key, value in empty.items()}


def close(found, expected, tolerance=1e-4):
    """Whether two images' logits agree, and how they differ from each other agrees, relative to the largest.

    A logit is a chain of float32 sums of thousands of products. Libraries and processors add them in another order,
    which moves the last of the logits' seven digits by some 1e-5 of the largest; a wrong layer moves the first ones.
    """
    for a, b in ((found, expected), (found[0] - found[1], expected[0] - expected[1])):
        if np.abs(a - b).max() > tolerance * np.abs(b).max():
            return False
    return True


@pytest.mark.parametrize("name", zoo_weights.NAMES)
def test_keys_shapes_and_logits_are_those_recorded_of_pytorch(name):
    state, record = zoo_state(name), zoo_weights.recorded(name)
    assert zoo_weights.digest(state) == record["keys"]
    variables = torch_layout.from_torch(state, shapes(name), torch_layout.of(name))
    apply = jax.jit(network(name).apply)
    for size in zoo_weights.SIZES:
        assert close(apply(variables, zoo_weights.images(size)), np.asarray(record["logits"][str(size)]))


@pytest.mark.parametrize("name", zoo_weights.NAMES)
def test_the_record_is_what_pytorch_says(name):
    pytest.importorskip("torch")
    import torch_zoo

    record = zoo_weights.recorded(name)
    definition = torch_zoo.by_name(name, zoo_weights.CLASSES, zoo_weights.CHANNELS)
    assert zoo_weights.digest(definition.state_dict()) == record["keys"]
    for size in zoo_weights.SIZES:
        assert close(torch_zoo.logits(name, size), np.asarray(record["logits"][str(size)]))


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "vgg8", "wrn16_1", "mobilenetv2"])
def test_a_single_wrong_layer_is_not_close(name):
    """TensorFlow's epsilon, 1e-3, in one BatchNorm of many is told from PyTorch's 1e-5."""
    variables = torch_layout.from_torch(zoo_state(name), shapes(name), torch_layout.of(name))
    leaves, tree = jax.tree.flatten_with_path(variables)
    first = next(index for index, (path, _) in enumerate(leaves) if path[-1].key == "var")
    values = [leaf + np.float32(1e-3 - 1e-5) if index == first else leaf for index, (_, leaf) in enumerate(leaves)]
    logits = jax.jit(network(name).apply)(jax.tree.unflatten(tree, values), zoo_weights.images(32))
    assert not close(logits, np.asarray(zoo_weights.recorded(name)["logits"]["32"]))


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "wrn16_1", "mobilenetv2"])
@pytest.mark.parametrize("shape", [(28, 36), (20, 12)])
def test_an_image_that_is_not_square_gets_the_logits_of_pytorch(name, shape):
    torch = pytest.importorskip("torch")
    import torch_zoo

    definition = torch_zoo.load(torch_zoo.by_name(name, zoo_weights.CLASSES, zoo_weights.CHANNELS))
    images = np.random.default_rng(0).normal(0, 2, (2, *shape, zoo_weights.CHANNELS)).astype(np.float32)
    with torch.no_grad():
        expected = definition(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    variables = torch_layout.from_torch(zoo_state(name), shapes(name), torch_layout.of(name))
    assert close(jax.jit(network(name).apply)(variables, images), expected)


@pytest.mark.parametrize("name", ["resnet18", "vgg8", "wrn16_1", "mobilenetv2"])
def test_one_training_step_moves_the_batch_norm_statistics_as_pytorch_does(name):
    """PyTorch's running variance takes the unbiased one of n values, Flax's the biased: a factor n / (n - 1)."""
    torch = pytest.importorskip("torch")
    import torch_zoo

    definition = torch_zoo.load(torch_zoo.by_name(name, zoo_weights.CLASSES, zoo_weights.CHANNELS)).train()
    values = {}
    for layer_name, layer in definition.named_modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.register_forward_hook(lambda _, x, y, key=layer_name: values.update({key: y.numel() / y.shape[1]}))
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    images = np.random.default_rng(0).normal(0, 1, (4, 32, 32, zoo_weights.CHANNELS)).astype(np.float32)
    with torch.no_grad():
        logits = definition(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    expected = {key: value.numpy() for key, value in definition.state_dict().items()}

    before, layout = zoo_state(name), torch_layout.of(name)
    found, variables = jax.jit(network(name).train)(torch_layout.from_torch(before, shapes(name), layout), images)
    after = torch_layout.to_torch(variables, layout)
    np.testing.assert_allclose(found, logits, rtol=1e-3, atol=1e-3 * np.abs(logits).max())
    for key, n in values.items():
        mean, var = f"{key}.running_mean", f"{key}.running_var"
        scale = np.abs(expected[mean]).max()
        np.testing.assert_allclose(after[mean], expected[mean], rtol=1e-3, atol=1e-4 * scale)
        batch = (after[var] - 0.9 * before[var]) * n / (n - 1)
        np.testing.assert_allclose(0.9 * before[var] + batch, expected[var], rtol=1e-3)
