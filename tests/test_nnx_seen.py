"""What the layers of an NNX module take in is seen, and conformance tells those that do not serve."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from nnx_zoo import (
    CLASSES,
    SHAPE,
    WIDTH,
    Block,
    Doubling,
    Noise,
    Own,
    Plain,
    bound,
    close,
    in_mode,
    make,
    normalised,
    statistics,
)

from ssdkd_jax import teacher
from ssdkd_jax.interop import nnx_module
from ssdkd_jax.models import conformance, observe


@pytest.fixture(scope="module")
def net():
    module = make()
    return module, *bound(module)


def by_hand(module, images):
    """The input of each BatchNorm and of the head in eval mode, layer by layer."""
    x, inputs = module.stem(normalised(images)), []
    for block in in_mode(module, train=False).blocks:
        inputs.append(block.conv(x))
        x = block(x)
    return inputs, x.mean((1, 2))


@pytest.mark.parametrize("compiled", [False, True])
def test_moments_are_those_of_the_inputs_of_its_norms(net, compiled):
    module, network, variables = net
    images, look = tiny.images(4, 5, SHAPE), partial(teacher.observe, network)
    found = (jax.jit(look) if compiled else look)(variables, images)
    inputs, before_head = by_hand(module, images)
    assert len(found.moments) == 2
    for moments, x, kept in zip(found.moments, inputs, statistics(module).values(), strict=True):
        x = np.asarray(x, np.float64)
        close(list(moments), [x.mean((0, 1, 2)), x.var((0, 1, 2)), kept["mean"], kept["var"]], 1e-3)
    close(found.norm_inputs, inputs)
    close(found.dense_inputs, [before_head])


@pytest.mark.parametrize("norm", [nnx.BatchNorm, Doubling])
def test_a_module_that_serves_has_no_faults(norm):
    network, variables = bound(make(norm=norm))
    assert conformance.check(network, SHAPE, "net", variables) == []


def test_of_a_layer_that_calls_its_base_the_bases_input_is_seen():
    network, variables = bound(Plain(Doubling(SHAPE[-1], rngs=nnx.Rngs(0))))
    images = tiny.images(0, 5, SHAPE)
    (moments,) = teacher.observe(network, variables, images).moments
    close(moments.mean, 2 * normalised(images).mean((0, 1, 2)))


def test_a_normalisation_of_ones_own_is_seen_and_serves():
    network, variables = bound(Plain(Own()))
    assert conformance.check(network, SHAPE, "own", variables) == []
    (moments,) = teacher.observe(network, variables, tiny.images(0, 5, SHAPE)).moments
    close(moments.mean, normalised(tiny.images(0, 5, SHAPE)).mean((0, 1, 2)))


def test_variables_of_other_makes_find_a_place():
    class Odd(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.SpectralNorm(nnx.Linear(SHAPE[-1], CLASSES, rngs=rngs), rngs=rngs)
            self.times, self.place, self.name = nnx.Param(2.0), np.arange(3), "odd"

        def __call__(self, x):
            return self.times * self.norm(x[:, self.place[1]].mean(1))

    module = Odd(nnx.Rngs(0))
    network, variables = bound(module)
    assert variables["params"]["times"].dtype == jnp.float32 and not variables["params"]["times"].weak_type
    assert set(variables["batch_stats"]["norm"]["batch_stats"]["kernel"]) == {"u", "sigma"}
    assert conformance.check(network, SHAPE, "odd", variables) == []
    images, itself = tiny.images(0, 4, SHAPE), in_mode(module, train=True)
    logits, renewed = network.train(variables, images)
    close(logits, itself(normalised(images)))
    close(nnx_module.updated(module, renewed)(normalised(images)), network.apply(renewed, images))


def test_a_layer_called_at_two_places_has_one_path_and_is_seen_twice():
    class Shared(nnx.Module):
        def __init__(self):
            self.zone, self.head = nnx.BatchNorm(SHAPE[-1], rngs=nnx.Rngs(0)), nnx.Linear(2, 3, rngs=nnx.Rngs(0))
            self.again = self.zone

        def __call__(self, x):
            return self.head(self.again(self.zone(x) + 1).mean((1, 2)))

    network, variables = bound(Shared())
    assert observe.norm_paths(variables) == ["again"]
    assert len(teacher.observe(network, variables, tiny.images(0, 5, SHAPE)).moments) == 2
    assert conformance.check(network, SHAPE, "shared", variables) == []


def test_stacked_blocks_under_scan_are_seen_one_by_one():
    @nnx.split_rngs(splits=2)
    @nnx.vmap
    def stack(rngs):
        return Dropped(rngs)

    class Dropped(Block):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.drop(super().__call__(x))

    class Scanned(nnx.Module):
        def __init__(self, rngs):
            self.stem, self.head = nnx.Conv(2, WIDTH, (1, 1), rngs=rngs), nnx.Linear(WIDTH, CLASSES, rngs=rngs)
            self.blocks = stack(rngs)

        def __call__(self, x):
            step = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            return self.head(step(self.stem(x), self.blocks).mean((1, 2)))

    module = Scanned(nnx.Rngs(0))
    network, variables = bound(module)
    images = tiny.images(0, 5, SHAPE)
    assert [m.mean.shape for m in teacher.observe(network, variables, images).moments] == [(WIDTH,)] * 2
    close(jax.jit(network.apply)(variables, images), in_mode(module, train=False)(normalised(images)))
    assert conformance.check(network, SHAPE, "scanned", variables) == []
    train = jax.jit(network.train)
    one, other = (train(variables, images, jax.random.key(k))[0] for k in (1, 2))
    assert np.abs(one - other).max() > 1e-3


def test_a_module_that_draws_in_eval_mode_is_told():
    network, variables = bound(Plain(Noise()))
    (fault,) = conformance.check(network, SHAPE, "noise", variables)
    assert "fails in eval mode (The layer 'layer/rngs" in fault


def test_linen_layers_within_a_module_are_seen():
    class Mixed(nnx.Module):
        def __init__(self, rngs):
            images = jnp.zeros((1, *SHAPE))
            self.norm = nnx.bridge.ToNNX(nn.BatchNorm(use_running_average=True), rngs=rngs).lazy_init(images)
            self.head = nnx.bridge.ToNNX(nn.Dense(CLASSES), rngs=rngs).lazy_init(images.mean((1, 2)))

        def __call__(self, x):
            return self.head(self.norm(x).mean((1, 2)))

    network, variables = bound(Mixed(nnx.Rngs(0)))
    assert observe.norm_paths(variables) == ["norm"]
    assert conformance.check(network, SHAPE, "mixed", variables, trained=False) == []
    assert len(teacher.observe(network, variables, tiny.images(0, 4, SHAPE)).moments) == 1
