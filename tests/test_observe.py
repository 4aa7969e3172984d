"""What is seen of layers within jit, remat and scan is what is seen of the plain module."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssdkd_jax import teacher
from ssdkd_jax.models import conformance

SHAPE, DEPTH = (6, 6, 2), 3


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.BatchNorm(not train, name="wide")(nn.Conv(4, (3, 3))(x)))
        return nn.BatchNorm(not train, name="narrow")(nn.Conv(4, (1, 1))(x))


class Unrolled(nn.Module):
    """Blocks one after another, each as `wrap` has it."""

    wrap: type = Block

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3))(x)
        for index in range(DEPTH):
            x = self.wrap(name=f"block{index}")(x, train)
        return nn.Dense(3)(x.mean((1, 2)))


class Step(nn.Module):
    train: bool
    wrap: type = Block

    @nn.compact
    def __call__(self, x, _):
        return self.wrap(name="block")(x, self.train), None


class Scanned(nn.Module):
    """The same blocks under nn.scan, their variables stacked."""

    wrap: type = Block
    axis: int = 0

    @nn.compact
    def __call__(self, x, train):
        axes = {"params": self.axis, "batch_stats": self.axis}
        steps = nn.scan(Step, variable_axes=axes, split_rngs={"params": True}, length=DEPTH)
        x, _ = steps(train, self.wrap, name="steps")(nn.Conv(4, (3, 3))(x), None)
        return nn.Dense(3)(x.mean((1, 2)))


REMAT, JIT = (transform(Block, static_argnums=(2,)) for transform in (nn.remat, nn.jit))


@pytest.fixture(scope="module")
def unrolled():
    """Variables whose statistics are not the initial ones, and what is seen of the plain module."""
    network = tiny.bound(Unrolled(), SHAPE)
    shapes, rng = jax.eval_shape(network.init, jax.random.key(0)), np.random.default_rng(0)
    variables = jax.tree.map(lambda x: jnp.asarray(0.2 + rng.random(x.shape), jnp.float32), shapes)
    return variables, teacher.observe(network, variables, tiny.images(0, 5, SHAPE))


def stacked(variables, axis):
    """The variables of `Unrolled` as those of `Scanned`."""

    def of(collection):
        blocks = [collection[f"block{index}"] for index in range(DEPTH)]
        rest = {name: value for name, value in collection.items() if not name.startswith("block")}
        return {**rest, "steps": {"block": jax.tree.map(lambda *x: jnp.stack(x, axis), *blocks)}}

    return {name: of(collection) for name, collection in variables.items()}


@pytest.mark.parametrize("module", [Unrolled(REMAT), Unrolled(JIT), Scanned(), Scanned(REMAT), Scanned(axis=1)])
@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_seen_within_a_transform_is_that_of_the_plain_module_in_order(unrolled, module, compiled):
    variables, expected = unrolled
    if isinstance(module, Scanned):
        variables = stacked(variables, module.axis)
    network, images = tiny.bound(module, SHAPE), tiny.images(0, 5, SHAPE)
    network.apply(variables, images)  # a trace that is not watched comes first
    observe = jax.jit(partial(teacher.observe, network)) if compiled else partial(teacher.observe, network)
    found = observe(variables, images)
    assert len(found.moments) == 2 * DEPTH
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), found, expected)
    assert compiled or conformance.check(network, SHAPE, "own", variables) == []


def test_gradients_of_moments_pass_through_remat_and_scan(unrolled):
    variables, _ = unrolled

    def gradient(module, variables):
        def loss(x):
            return sum((m.mean + m.var).sum() for m in teacher.observe(tiny.bound(module, SHAPE), variables, x).moments)

        return jax.jit(jax.grad(loss))(tiny.images(0, 5, SHAPE))

    expected = gradient(Unrolled(), variables)
    for module, own in ((Unrolled(REMAT), variables), (Scanned(REMAT), stacked(variables, 0))):
        np.testing.assert_allclose(gradient(module, own), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_a_layer_whose_output_nobody_uses_is_seen():
    class Probe(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            nn.remat(nn.BatchNorm)(not train)(x)
            return x.mean((1, 2))

    network, images = tiny.bound(Probe(), SHAPE), tiny.images(0, 5, SHAPE)
    (moments,) = teacher.observe(network, network.init(jax.random.key(0)), images).moments
    np.testing.assert_allclose(moments.mean, images.mean((0, 1, 2)), rtol=1e-5)


def test_a_layer_called_twice_is_seen_twice():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            norm = nn.BatchNorm(not train)
            return norm(norm(x) + 3).mean((1, 2))

    network, images = tiny.bound(Twice(), SHAPE), tiny.images(0, 5, SHAPE)
    first, second = teacher.observe(network, network.init(jax.random.key(0)), images).moments
    np.testing.assert_allclose(first.mean, images.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(second.mean, images.mean((0, 1, 2)) / np.sqrt(1 + 1e-5) + 3, rtol=1e-5)
