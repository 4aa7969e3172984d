"""The peers' loss terms against numpy or a closed form, and what the layers of a network see."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tiny

from ssdkd_jax import augment
from ssdkd_jax.methods import peer_losses
from ssdkd_jax.models import observe


def logits(rng, *shape):
    return rng.normal(0, 3, shape).astype(np.float32)


def test_jensen_shannon_is_that_of_numpy_and_at_most_log_2(rng):
    t, s = logits(rng, 9, 5), logits(rng, 9, 5)
    p, q = tiny.softmax(t / 3), tiny.softmax(s / 3)
    m = (p + q) / 2
    expected = 0.5 * (p * np.log(p / m)).sum(-1) + 0.5 * (q * np.log(q / m)).sum(-1)
    np.testing.assert_allclose(peer_losses.jensen_shannon(t, s, 3.0), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(peer_losses.competition(t, s, 3.0), 1 - expected, rtol=1e-5)
    apart = jnp.array([[60.0, 0.0]]), jnp.array([[0.0, 60.0]])
    np.testing.assert_allclose(peer_losses.jensen_shannon(*apart, 1.0), [np.log(2)], rtol=1e-5)


def test_class_balance_is_lowest_for_even_classes_and_zero_for_one():
    even, one = jnp.full((8, 4), 0.25), jnp.tile(jnp.eye(4)[:1], (8, 1))
    mixed = jnp.tile(jnp.eye(4), (2, 1))  # each image sure of its class, the batch balanced
    np.testing.assert_allclose(peer_losses.class_balance(even, None), -np.log(4), rtol=1e-6)
    np.testing.assert_allclose(peer_losses.class_balance(mixed, None), -np.log(4), rtol=1e-6)
    np.testing.assert_allclose(peer_losses.class_balance(one, None), 0.0, atol=1e-7)


def test_l1_and_activation_are_means_of_magnitudes():
    t, s = jnp.array([[1.0, -2.0], [0.0, 4.0]]), jnp.array([[0.0, 2.0], [0.0, 1.0]])
    np.testing.assert_allclose(peer_losses.l1(t, s), [2.5, 1.5])
    np.testing.assert_allclose(peer_losses.l1(t[None, None], s[None, None]), [2.0])  # an image of two pixels
    np.testing.assert_allclose(peer_losses.activation(t), [-1.5, -2.0])


def test_total_variation_is_numpys_and_sees_all_four_directions(rng):
    x = rng.random((2, 4, 5, 3))
    pairs = [(0, 1), (1, 0), (1, 1), (1, -1)]
    expected = 0.0
    for down, right in pairs:
        a = x[:, down:, max(right, 0) : 5 + min(right, 0)]
        b = x[:, : 4 - down, max(-right, 0) : 5 - max(right, 0)]
        expected += np.sqrt(((a - b) ** 2).sum())
    np.testing.assert_allclose(peer_losses.total_variation(jnp.asarray(x), None), expected, rtol=1e-5)
    gradient = jax.grad(peer_losses.total_variation)(jnp.ones((1, 3, 3, 1)), None)
    assert np.isfinite(gradient).all()


def test_contrastive_is_a_cross_entropy_over_the_keys_that_are_present(rng):
    queries, keys = rng.normal(size=(3, 4)), rng.normal(size=(7, 4))
    present = np.array([1, 1, 1, 0, 1, 1, 0], bool)
    value = peer_losses.contrastive(jnp.asarray(queries), jnp.asarray(keys), jnp.arange(3), present, 0.2)
    p = tiny.softmax(queries @ keys[present].T / 0.2)
    np.testing.assert_allclose(value, -np.log(p[np.arange(3), np.arange(3)]), rtol=1e-3, atol=1e-5)


class Stages(nn.Module):
    """Two convolutions at 8x8, one at 4x4, each before a BatchNorm; then a linear layer."""

    @nn.compact
    def __call__(self, x):
        for features, stride in ((2, 1), (3, 1), (5, 2)):
            x = nn.Conv(features, (1, 1), strides=stride)(x)
            self.sow("saved", "x", x)
            x = nn.BatchNorm(True)(x)
        return nn.Dense(4)(x.mean((1, 2)))


def test_layers_are_seen_in_order_and_instance_means_are_of_all(rng):
    module, x = Stages(), jnp.asarray(rng.random((2, 8, 8, 1)), jnp.float32)
    variables = module.init(jax.random.key(0), x)
    variables = {name: variables[name] for name in ("params", "batch_stats")}
    (_, saved), seen = observe.norm_inputs(lambda: module.apply(variables, x, mutable=["saved"]))
    inputs = saved["saved"]["x"]
    for shown, saved_input in zip(seen, inputs, strict=True):
        np.testing.assert_array_equal(shown, saved_input)
    expected = np.concatenate([np.asarray(i).mean((1, 2)) for i in inputs], -1)
    np.testing.assert_allclose(observe.instance_means(seen), expected, rtol=1e-5)


def test_a_resized_crop_is_a_part_of_the_image_enlarged():
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, 16)[:, None, None], (16, 16, 1))
    view = jax.jit(jax.vmap(augment.resized_crop(0.25), in_axes=(0, None)))
    parts = np.asarray(view(jax.random.split(jax.random.key(0), 50), ramp))[..., 0]
    assert parts.shape == (50, 16, 16)
    assert (parts >= -1e-6).all() and (parts <= 1 + 1e-6).all()
    slope = parts[:, 12, 0] - parts[:, 4, 0]  # of the whole ramp 8/15
    zoom = 8 / 15 / slope
    assert (zoom > 0.99).all() and (zoom < 2.01).all()  # a quarter of the area is half of the side
    assert zoom.std() > 0.1
    np.testing.assert_allclose(parts, parts[:, :, :1].repeat(16, 2), atol=1e-5)
