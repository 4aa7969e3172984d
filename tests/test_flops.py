"""What is counted of a network: the same on all devices, since settings follow from it."""

import math

import jax
import jax.numpy as jnp
import pytest

from ssdkd_jax import models


@pytest.fixture
def product():
    """A network that is one matrix product, [1, 12] by [12, 5], and its variables."""
    variables = {"params": {"w": jnp.ones((12, 5))}}
    return models.frozen(lambda variables, x: x.reshape(1, -1) @ variables["params"]["w"], variables), variables


def test_a_multiplication_and_an_addition_are_two(product):
    assert models.flops(*product, (2, 2, 3)) == 2 * 12 * 5


def test_shapes_are_enough(product):
    network, variables = product
    assert models.flops(network, jax.eval_shape(lambda v: v, variables), (2, 2, 3)) == 2 * 12 * 5


def test_without_a_cpu_nothing_is_counted(product, monkeypatch):
    def absent(**_):
        raise RuntimeError("Unknown backend cpu")

    monkeypatch.setattr(jax, "local_devices", absent)
    assert math.isnan(models.flops(*product, (2, 2, 3)))
