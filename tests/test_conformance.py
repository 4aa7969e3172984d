"""Modules of every make serve, or are refused in a sentence that names the layer."""

import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssdkd_jax import models, teacher
from ssdkd_jax.models import conformance

SHAPE = (6, 6, 2)


class Own(nn.Module):
    """A normalisation of somebody's own."""

    train: bool
    names: tuple = ("mean", "var")
    collection: str = "batch_stats"
    kept_dims: bool = False
    before: callable = lambda x: x

    @nn.compact
    def __call__(self, x):
        x = self.before(x)
        shape = (1, 1, 1, x.shape[-1]) if self.kept_dims else x.shape[-1:]
        starts = zip(self.names, (jnp.zeros, jnp.ones), strict=True)
        mean, var = (self.variable(self.collection, name, start, shape) for name, start in starts)
        if self.train:
            mean.value = 0.8 * mean.value + 0.2 * x.mean((0, 1, 2))
            var.value = 0.8 * var.value + 0.2 * x.var((0, 1, 2), ddof=1)
        return (x - mean.value) / jnp.sqrt(var.value + 1e-5)


class Doubling(nn.BatchNorm):
    """A BatchNorm of twice its input."""

    @nn.compact
    def __call__(self, x):
        return super().__call__(2 * x)


def net(layer, head=lambda x: x.mean((1, 2))):
    """A classifier with one layer of interest, `layer(train)`."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(3)(head(layer(train)(nn.Conv(5, (3, 3), name="before")(x))))

    return Net()


class ChannelsFirst(nn.Module):
    axis: int | tuple = 1

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(5, (3, 3), name="before")(x).transpose(0, 3, 1, 2)
        return nn.Dense(3)(nn.BatchNorm(not train, axis=self.axis)(x).mean((2, 3)))


class Spectral(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.SpectralNorm(nn.Dense(3))(x.mean((1, 2)), update_stats=train)


def each_image(train):
    def one(norm, x):
        return norm(x)

    frozen = {"params": None, "batch_stats": None}
    mapped = nn.vmap(one, variable_axes=frozen, split_rngs={"params": False}, axis_name="images")
    return partial(mapped, nn.BatchNorm(not train, axis_name="images"))


def ensemble(train):
    axes = dict(variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True})
    norms = nn.vmap(nn.BatchNorm, in_axes=None, out_axes=0, axis_size=2, **axes)(not train)
    return lambda x: norms(x).mean(0)


@pytest.mark.parametrize(
    ("module", "norms"),
    [
        (ChannelsFirst(), 1),
        (ChannelsFirst((1, -1)), 1),
        (Spectral(), 0),
        (net(lambda train: Own(train)), 1),
        (net(lambda train: Own(train, kept_dims=True)), 1),
        (net(lambda train: Doubling(not train)), 1),
        (net(lambda train: nn.jit(nn.BatchNorm)(not train)), 1),
        (net(lambda train: nn.BatchNorm(True)), 1),
        (net(lambda train: nn.GroupNorm(1)), 0),
        (net(each_image), 1),
        (net(ensemble), 2),
        (net(lambda train: nn.Dropout(0.5, deterministic=not train)), 0),
    ],
)
def test_modules_that_serve(module, norms):
    network = tiny.bound(module, SHAPE)
    variables = network.init(jax.random.key(0))
    assert conformance.check(network, SHAPE, "own", variables) == []
    assert teacher.has_batch_norm(variables) == bool(norms)
    images = tiny.images(0, 5, SHAPE)
    _, inner = module.apply(variables, images, False, capture_intermediates=lambda m, _: m.name == "before")
    moments = teacher.observe(network, variables, images).moments
    assert len(moments) == norms
    if "before" in variables["params"] and moments and moments[0].mean.size == 5:
        x = (2 if "Doubling_0" in variables["params"] else 1) * inner["intermediates"]["before"]["__call__"][0]
        np.testing.assert_allclose(moments[-1].mean, x.mean((0, 1, 2)), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(moments[-1].var, x.var((0, 1, 2)), rtol=1e-3)


class Branch(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        norm = nn.BatchNorm(not train, name="norm")
        return nn.Dense(3)(nn.cond(x.sum() > 0, lambda m, x: m(x), lambda m, x: m(-x), norm, x).mean((1, 2)))


class Counter(nn.Module):
    @nn.compact
    def __call__(self, x):
        count = self.variable("batch_stats", "count", jnp.zeros, ())
        count.value += 1
        return x


class Elsewhere(nn.Module):
    """Running statistics that no `__call__` uses."""

    def setup(self):
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, 5)
        self.var = self.variable("batch_stats", "var", jnp.ones, 5)

    def normalise(self, x):
        return (x - self.mean.value) / jnp.sqrt(self.var.value + 1e-5)


@pytest.mark.parametrize(
    ("module", "fault"),
    [
        (net(lambda train: Elsewhere(name="norm").normalise), r"layer 'norm' keeps .* none of its calls is seen"),
        (Branch(), r"the BatchNorm 'norm' stands in 'cond'"),
        (net(lambda train: nn.Dropout(0.5, deterministic=False)), r"layer 'Dropout_0' fails in eval mode .*needs PRNG"),
        (net(lambda train: nn.Dropout(0.5)), r"layer 'Dropout_0' fails when it is initialised .*deterministic"),
        (net(lambda train: nn.BatchNorm(False)), r"layer 'BatchNorm_0' fails in eval mode .*batch_stats.*immutable"),
        (net(lambda train: Counter()), r"layer 'Counter_0' fails in eval mode .*'?\"?count"),
        (net(lambda train: Own(train, ("ra_mean", "ra_var"))), r"layer 'Own_0' keeps ra_mean, ra_var in 'batch_stats'"),
        (net(lambda train: Own(train, collection="state")), r"layer 'Own_0' keeps mean, var in 'state'"),
        (net(lambda train: Own(train, before=jnp.square)), r"statistics of its layer 'Own_0' do not follow"),
        (net(lambda train: Own(train, before=lambda x: x[..., :2])), r"'Own_0' keeps statistics of shape \[2\]"),
        (net(lambda train: lambda x: x - x.mean(0)), r"depends on the others of the batch in eval mode"),
        (net(lambda train: lambda x: x + np.random.default_rng().random()), r"another function at each call"),
        (net(lambda train: lambda x: jnp.log(x - 100)), r"answers NaN or infinity"),
    ],
)
def test_modules_that_do_not_serve_are_told_in_sentences_that_name_the_layer(module, fault):
    faults = conformance.check(tiny.bound(module, SHAPE), SHAPE, "pkg:Net")
    assert faults
    for said in faults:
        assert said.startswith("Model 'pkg:Net': ")
        assert said.endswith(".") and "\n" not in said
    assert re.search(fault, faults[0])


def test_a_students_network_is_tried_outside_of_its_device_axis():
    network = models.bind(tiny.Tiny(3), tiny.SHAPE, axis="devices")
    assert conformance.check(network, tiny.SHAPE, "tiny:Tiny") == []


def test_a_layer_called_twice_serves():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            norm = nn.BatchNorm(not train)
            return nn.Dense(3)(norm(norm(x) + 3).mean((1, 2)))

    assert conformance.check(tiny.bound(Twice(), SHAPE), SHAPE, "twice") == []


def test_an_error_of_the_modules_own_passes_through():
    def broken(x):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        conformance.check(tiny.bound(net(lambda train: broken), SHAPE), SHAPE, "own")


def test_dropout_draws_with_the_key_that_train_is_given():
    network = tiny.bound(net(lambda train: nn.Dropout(0.5, deterministic=not train)), SHAPE)
    variables, images = network.init(jax.random.key(0)), tiny.images(0, 2, SHAPE)
    one, again, other = (network.train(variables, images, jax.random.key(k))[0] for k in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3
    np.testing.assert_array_equal(network.apply(variables, images), network.apply(variables, images))
