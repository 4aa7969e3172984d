"""The networks against closed-form counts and a numpy forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssdkd_jax import models, teacher


def wrn_parameters(depth, width, classes, channels=3):
    """Counted from the layout: convolutions without bias, two numbers per BatchNorm feature."""
    total, before = 9 * channels * 16, 16
    for features in (16 * width, 32 * width, 64 * width):
        for _ in range((depth - 4) // 6):
            total += 2 * before + 9 * before * features + 2 * features + 9 * features * features
            total += before * features if before != features else 0
            before = features
    return total + 2 * before + (before + 1) * classes


@pytest.mark.parametrize(
    ("name", "published", "norms"),
    [("wrn40_2", 2.244, 37), ("wrn40_1", 0.564, 37), ("wrn16_2", 0.692, 13), ("wrn16_1", 0.175, 13)],
)
def test_wrn_has_the_published_number_of_parameters_and_batch_norms(name, published, norms):
    network = models.bind(models.by_name(name, 10), (32, 32, 3))
    variables = jax.eval_shape(lambda key: network.init(key), jax.random.key(0))
    count = models.parameter_count(variables)
    assert count == wrn_parameters(*map(int, name.removeprefix("wrn").split("_")), 10)
    assert round(count / 1e6, 3) == published
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    moments = jax.eval_shape(lambda v, x: teacher.observe(network, v, x).moments, variables, images)
    assert len(moments) == norms


def test_wrn40_2_has_exactly_the_parameters_of_the_peers():
    assert wrn_parameters(40, 2, 10) == 2243546


@pytest.mark.parametrize(
    ("name", "published", "norms"),
    [
        ("resnet18", 11173962, 20),
        ("resnet34", 21282122, 36),
        ("resnet50", 23520842, 53),
        ("vgg8", 3918858, 5),
        ("vgg11", 9231114, 8),
        ("vgg13", 9416010, 10),
        ("mobilenetv2", 2236682, 52),
    ],
)
def test_the_zoo_has_the_peers_number_of_parameters_and_batch_norms(name, published, norms):
    def made(classes, channels):
        network = models.bind(models.by_name(name, classes), (32, 32, channels))
        return network, jax.eval_shape(network.init, jax.random.key(0))

    network, variables = made(10, 3)
    assert models.parameter_count(variables) == published
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    moments = jax.eval_shape(lambda v, x: teacher.observe(network, v, x).moments, variables, images)
    assert len(moments) == norms
    stem, head = (leaf["kernel"].shape for leaf in ends(variables["params"]))
    assert models.parameter_count(made(7, 1)[1]) == published - 2 * 9 * stem[-1] - 3 * (head[0] + 1)


@pytest.mark.parametrize("name", ["resnet18", "vgg8", "mobilenetv2"])
def test_binding_to_an_axis_reaches_the_zoos_batch_norms(name):
    network = models.bind(models.by_name(name, 3), (16, 16, 1), axis="devices")
    variables = jax.eval_shape(network.init, jax.random.key(0))
    shards = jax.ShapeDtypeStruct((2, 4, 16, 16, 1), jnp.float32)
    train = jax.vmap(network.train, in_axes=(None, 0), out_axes=(0, None), axis_name="devices")
    logits, updated = jax.eval_shape(train, variables, shards)  # one set of statistics for both shards
    assert logits.shape == (2, 4, 3)
    assert jax.tree.structure(updated) == jax.tree.structure(variables)


def ends(params):
    """The first convolution and the last linear layer."""
    first = next(name for name in ("conv1", "block0_conv0", "stem") if name in params)
    last = next(name for name in ("linear", "classifier") if name in params)
    return params[first], params[last]


@pytest.mark.parametrize(("classes", "channels"), [(10, 1), (100, 3)])
def test_wrn_counts_follow_classes_and_channels(classes, channels):
    network = models.bind(models.by_name("wrn10_1", classes), (8, 8, channels))
    variables = jax.eval_shape(lambda key: network.init(key), jax.random.key(0))
    assert models.parameter_count(variables) == wrn_parameters(10, 1, classes, channels)


def convolve(x, kernel, stride, padding):
    """A plain convolution, one kernel position at a time."""
    k = kernel.shape[0]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    size = [(n - k) // stride + 1 for n in x.shape[1:3]]
    out = 0
    for i in range(k):
        for j in range(k):
            window = x[:, i : i + stride * (size[0] - 1) + 1 : stride, j : j + stride * (size[1] - 1) + 1 : stride]
            out = out + window @ kernel[i, j]
    return out


def wrn10_by_hand(variables, x):
    """WRN-10 in eval mode; the shortcut of a widening block takes the activated input."""
    params, stats = variables["params"], variables["batch_stats"]

    def norm_relu(x, p, s):
        return np.maximum((x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"], 0)

    x = convolve(x, params["conv1"]["kernel"], 1, 1)
    for group, stride in enumerate((1, 2, 2), 1):
        p, s = params[f"block{group}_layer0"], stats[f"block{group}_layer0"]
        out = norm_relu(x, p["bn1"], s["bn1"])
        if "convShortcut" in p:
            x = convolve(out, p["convShortcut"]["kernel"], stride, 0)
        out = norm_relu(convolve(out, p["conv1"]["kernel"], stride, 1), p["bn2"], s["bn2"])
        x = x + convolve(out, p["conv2"]["kernel"], 1, 1)
    x = norm_relu(x, params["bn1"], stats["bn1"]).mean((1, 2))
    return x @ params["fc"]["kernel"] + params["fc"]["bias"]


def test_wrn_forward_is_that_of_numpy(rng):
    network = models.bind(models.by_name("wrn10_1", 4), (8, 12, 2), mean=(0.5, 0.2), std=(0.3, 0.4))
    variables = jax.tree.map(
        lambda leaf: leaf + np.abs(rng.normal(0, 0.1, leaf.shape)).astype(np.float32), network.init(jax.random.key(0))
    )
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    x = rng.random((2, 8, 12, 2)).astype(np.float32)
    logits = jax.jit(network.apply)(variables, x)
    expected = wrn10_by_hand(wide, (x.astype(np.float64) - [0.5, 0.2]) / [0.3, 0.4])
    assert "convShortcut" not in wide["params"]["block1_layer0"]
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(28, 28, 1), (12, 20, 3)])
def test_generator_makes_images_of_the_asked_shape_in_the_unit_range(shape):
    network = models.bind(models.Generator(shape, 2), (5,))
    variables = network.init(jax.random.key(0))
    images, updated = jax.jit(network.train)(variables, 10 * jax.random.normal(jax.random.key(1), (3, 5)))
    assert images.shape == (3, *shape)
    assert float(images.min()) >= 0.0
    assert float(images.max()) <= 1.0
    assert float(images.std()) > 1e-3
    assert len(jax.tree.leaves(updated["batch_stats"])) == 6


@pytest.mark.parametrize(("shape", "doublings"), [((128, 128, 3), 4), ((24, 40, 1), 3), ((8, 8, 3), 3)])
def test_generator_of_larger_images_halves_its_channels_with_each_doubling(shape, doublings):
    network = models.bind(models.Generator(shape, 4, doublings), (5,))
    variables = jax.eval_shape(network.init, jax.random.key(0))
    images = jax.eval_shape(network.apply, variables, jax.ShapeDtypeStruct((2, 5), jnp.float32))
    assert images.shape == (2, *shape)
    widths = [4 * 2**n for n in range(doublings)][::-1]
    coarse = (shape[0] >> doublings) * (shape[1] >> doublings)
    assert variables["params"]["Dense_0"]["kernel"].shape == (5, coarse * widths[0])
    kernels = [variables["params"][f"Conv_{n}"]["kernel"].shape[2:] for n in range(doublings + 1)]
    assert kernels == list(zip([widths[0], *widths], [*widths, shape[2]], strict=True))


@pytest.mark.parametrize(("doublings", "dense"), [(2, 1001 * 56 * 56 * 128), (5, 1001 * 7 * 7 * 1024)])
def test_the_size_of_a_generator_is_told_with_its_largest_part(doublings, dense):
    network = models.bind(models.Generator((224, 224, 3), 64, doublings), (1000,))
    variables = jax.eval_shape(network.init, jax.random.key(0))
    total = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    told = f"The generator has {total:,} parameters, {dense:,} of them in 'Dense_0'."
    assert models.size("generator", network) == told


def test_generator_refuses_a_size_that_does_not_divide():
    with pytest.raises(ValueError, match=r"divisible by 8, not \(28, 32\)"):
        jax.eval_shape(models.bind(models.Generator((28, 32, 1), 4, 3), (5,)).init, jax.random.key(0))


def test_a_users_own_classifier_is_found_by_its_import_path():
    module = models.by_name("tiny:Tiny", 5)
    assert isinstance(module, tiny.Tiny)
    assert module.classes == 5


@pytest.mark.eight_devices
def test_binding_to_an_axis_reaches_a_users_batch_norm():
    network = models.bind(tiny.Tiny(3), tiny.SHAPE, axis="devices")
    variables = network.init(jax.random.key(0))
    shards = tiny.images(0, 8).reshape(8, 1, *tiny.SHAPE)
    train = jax.pmap(network.train, axis_name="devices", in_axes=(None, 0))
    logits, updated = train(variables, shards)
    expected, expected_updated = models.bind(tiny.Tiny(3), tiny.SHAPE).train(variables, tiny.images(0, 8))
    np.testing.assert_allclose(logits[:, 0], expected, rtol=1e-3, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[3], b, rtol=1e-4, atol=1e-6),
        updated["batch_stats"],
        expected_updated["batch_stats"],
    )
