"""DeepLabV3 against PyTorch: recorded keys and logits always, PyTorch itself where it is installed."""

import deeplab_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo_weights

from ssdkd_jax import models, teacher
from ssdkd_jax.interop import torch_import, torch_layout

SAME_KEYS = ("deeplabv3_resnet50_os16", "deeplabv3_mobilenet_os16")  # as those of output stride 8
MARKED = [pytest.param(name, marks=[pytest.mark.slow] * (name in SAME_KEYS)) for name in deeplab_weights.NAMES]
SMALL = ("deeplabv3_resnet_small", "deeplabv3_resnet_tiny")


def network(name, size=32, classes=zoo_weights.CLASSES, channels=zoo_weights.CHANNELS):
    return models.bind(models.by_name(name, classes), (size, size, channels))


def state_of(name):
    """The state dict of the model `name`, from the keys of our layout, and the shapes of its variables."""
    like = jax.eval_shape(network(name).init, jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), like)
    empty = torch_layout.to_torch(zeros, torch_layout.of(name))
    return {key: zoo_weights.array(key, value.shape) for key, value in empty.items()}, like


@pytest.mark.parametrize("name", MARKED)
def test_keys_and_shapes_are_those_recorded_of_pytorch(name):
    state, _ = state_of(name)
    assert zoo_weights.digest(state) == deeplab_weights.recorded(name)["keys"]
    recognised = torch_import.recognise(state)
    assert recognised == name.removesuffix("_os16")  # whose keys are the same
    assert torch_import.sizes(state, name) == (zoo_weights.CLASSES, zoo_weights.CHANNELS)


@pytest.mark.parametrize("name", SMALL)
def test_the_small_ones_are_recognised_when_they_come_back(name):
    state, like = state_of(name)
    assert torch_import.recognise(state) == name
    torch_layout.from_torch(state, like, torch_layout.of(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", deeplab_weights.NAMES)
def test_logits_are_those_recorded_of_pytorch(name):
    state, like = state_of(name)
    variables = torch_layout.from_torch(state, like, torch_layout.of(name))
    images = zoo_weights.images(deeplab_weights.SIZE)
    found = deeplab_weights.thinned(jax.jit(network(name).apply)(variables, images))
    expected = np.asarray(deeplab_weights.recorded(name)["logits"])
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(expected[:, 0] - expected[:, -1]).max() > 1e-2 * np.abs(expected).max()  # places differ


@pytest.mark.slow
@pytest.mark.parametrize("name", deeplab_weights.NAMES)
def test_the_record_is_what_pytorch_says(name):
    pytest.importorskip("torch")
    import torch_deeplab_zoo

    expected = np.asarray(deeplab_weights.recorded(name)["logits"])
    found = torch_deeplab_zoo.logits(name, deeplab_weights.SIZE)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "counted", "norms"),
    [("deeplabv3_resnet50", 39636813, 60), ("deeplabv3_mobilenet", 5111821, 58)],
)
def test_parameters_and_batch_norms_with_thirteen_classes(name, counted, norms):
    bound = network(name, 128, 13, 3)
    variables = jax.eval_shape(bound.init, jax.random.key(0))
    assert models.parameter_count(variables) == counted
    images = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    logits, moments, *_ = jax.eval_shape(lambda v, x: teacher.observe(bound, v, x), variables, images)
    assert (logits.shape, len(moments)) == ((1, 128, 128, 13), norms)


@pytest.mark.parametrize("shape", [(16, 16), (40, 27)])
def test_a_small_one_labels_every_pixel_of_an_image_of_any_size(shape):
    bound = network("deeplabv3_resnet_tiny", 16, 5, 1)
    variables = jax.eval_shape(bound.init, jax.random.key(0))
    logits = jax.eval_shape(bound.apply, variables, jax.ShapeDtypeStruct((2, *shape, 1), jnp.float32))
    assert logits.shape == (2, *shape, 5)


def test_the_small_student_has_at_most_half_the_parameters_of_the_small_teacher():
    teacher_size, student_size = (
        models.parameter_count(jax.eval_shape(network(name, 64, 11, 1).init, jax.random.key(0))) for name in SMALL
    )
    assert 2 * student_size <= teacher_size


def test_images_that_are_too_small():
    with pytest.raises(ValueError, match="DeepLabV3 takes images"):
        jax.eval_shape(network("deeplabv3_resnet_tiny", 12).init, jax.random.key(0))
