"""NNX modules for tests, and what is asked of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from flax import nnx

from ssdkd_jax.interop import nnx_module

SHAPE, CLASSES, WIDTH = (6, 6, 2), 3, 4
MEAN, STD = (0.4, 0.5), (0.3, 0.2)


class Scale(nnx.Variable):
    """A kind of variable of the user's own."""


class Doubling(nnx.BatchNorm):
    """A BatchNorm of twice its input."""

    def __call__(self, x):
        return super().__call__(2 * x)


class Block(nnx.Module):
    """A residual block."""

    def __init__(self, rngs, norm=nnx.BatchNorm):
        self.conv = nnx.Conv(WIDTH, WIDTH, (3, 3), rngs=rngs)
        self.norm = norm(WIDTH, momentum=0.9, rngs=rngs)

    def __call__(self, x):
        return x + nnx.relu(self.norm(self.conv(x)))


class Net(nnx.Module):
    """A residual classifier; `around` stands around the call of each block."""

    def __init__(self, rngs, norm=nnx.BatchNorm, around=lambda block, x: block(x), rate=0.5):
        self.stem = nnx.Conv(SHAPE[-1], WIDTH, (3, 3), rngs=rngs)
        self.blocks = nnx.List([Block(rngs, norm) for _ in range(2)])
        self.drop = nnx.Dropout(rate, rngs=rngs)
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)
        self.scale, self.calls = Scale(jnp.float32(1.5)), nnx.Variable(jnp.int32(0))
        self.around = around

    def __call__(self, images):
        x = self.stem(images)
        for block in self.blocks:
            x = self.around(block, x)
        self.calls[...] += 1
        return self.scale[...] * self.head(self.drop(x.mean((1, 2))))


class Plain(nnx.Module):
    """A classifier with one layer of interest."""

    def __init__(self, layer):
        self.layer, self.head = layer, nnx.Linear(SHAPE[-1], CLASSES, rngs=nnx.Rngs(0))

    def __call__(self, images):
        return self.head(self.layer(images).mean((1, 2)))


class Own(nnx.Module):
    """A normalisation of somebody's own."""

    def __init__(self):
        self.mean, self.var = nnx.BatchStat(jnp.zeros(SHAPE[-1])), nnx.BatchStat(jnp.ones(SHAPE[-1]))
        self.use_running_average = False

    def __call__(self, x):
        if not self.use_running_average:
            self.mean[...] = 0.8 * self.mean + 0.2 * x.mean((0, 1, 2))
            self.var[...] = 0.8 * self.var + 0.2 * x.var((0, 1, 2))
        return (x - self.mean) / jnp.sqrt(self.var + 1e-5)


class Noise(nnx.Module):
    """Noise that does not ask for the mode."""

    def __init__(self):
        self.rngs = nnx.Rngs(0)

    def __call__(self, x):
        return x + self.rngs.normal(x.shape)


def remat(block, x):
    return nnx.remat(lambda block, x: block(x))(block, x)


def jitted(block, x):
    return nnx.jit(lambda block, x: block(x))(block, x)


def normalised(images):
    return (images - jnp.asarray(MEAN)) / jnp.asarray(STD)


def make(**options):
    """A module whose running statistics are not the initial ones."""
    module = Net(nnx.Rngs(0), **options)
    module.train()
    step = nnx.jit(lambda module, images: module(images))
    for seed in range(2):
        step(module, normalised(tiny.images(seed, 8, SHAPE)))
    return module


def bound(module, **options):
    return nnx_module.network(module, SHAPE, MEAN, STD, **options)


def in_mode(module, train):
    copy = nnx.clone(module)
    (copy.train if train else copy.eval)()
    return copy


def close(a, b, rtol=1e-4, atol=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), a, b)


def statistics(module):
    return {
        f"blocks/{i}/norm": {"mean": block.norm.mean[...], "var": block.norm.var[...]}
        for i, block in enumerate(module.blocks)
    }
