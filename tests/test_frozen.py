"""A frozen teacher of any make, as a bare function, serves or is refused in a sentence."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssdkd_jax.errors import InputError
from ssdkd_jax.models import conformance, refusals
from ssdkd_jax.types import Network

SHAPE = (6, 6, 2)


def linear(variables, images):
    """A bare function: x W, of the only array that its variables hold."""
    (weights,) = jax.tree.leaves(variables)
    return images.reshape(len(images), -1) @ weights


WEIGHTS = np.random.default_rng(1).normal(size=(np.prod(SHAPE), 3)).astype(np.float32)


def by_numpy(variables, images):
    return linear(variables, np.asarray(images))


def by_host(variables, images):
    def draw(x):
        return x + np.random.default_rng().random(x.shape, np.float32)

    return jax.pure_callback(draw, jax.ShapeDtypeStruct((len(images), 3), np.float32), linear(variables, images))


@pytest.mark.parametrize(
    "variables", [WEIGHTS, (WEIGHTS, ()), {"weights": WEIGHTS}, {"batch_stats": WEIGHTS}, {"a": {0: WEIGHTS}}]
)
def test_a_bare_function_of_any_variables_serves_as_a_frozen_teacher(variables):
    assert conformance.check(linear, SHAPE, "bare", variables) == []
    network = Network(lambda key: variables, linear, None)
    assert conformance.check(network, SHAPE, "bare", trained=False) == []


def test_a_bare_function_may_hold_its_weights_and_draw_by_a_fixed_key():
    key = jax.random.key(0)
    noisy = jax.jit(lambda variables, x: linear(WEIGHTS, x) + jax.random.normal(key, (3,)))
    assert conformance.check(noisy, SHAPE, "bare") == []


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (lambda v, x: linear(v, x) + np.random.default_rng().random(), "another function at each call; let it draw"),
        (by_host, "answers the same images differently at each call"),
        (lambda v, x: linear(v, x - x.mean(0)), "depends on the others of the batch in eval mode"),
        (lambda v, x: jnp.log(linear(v, 0 * x) - 1), "answers NaN or infinity"),
        (lambda v, x: {"logits": linear(v, x)}, r"answers \{'logits': \(4, 3\)\} to 4 images; let it return one array"),
        (by_numpy, r"cannot be traced by JAX in eval mode \(TracerArray.*\); compute with jax.numpy, without numpy, "),
        (lambda v, x: linear(v, x if x.sum() > 0 else -x), r"cannot be traced .*TracerBool.* a Python `if` on the"),
    ],
)
def test_bare_functions_that_do_not_serve_are_told_in_one_sentence(function, fault):
    faults = conformance.check(function, SHAPE, "bare", WEIGHTS)
    assert re.search(fault, faults[0])
    assert len(faults) == 1 or function is by_host or "another function" in fault
    for said in faults:
        assert said.startswith("Model 'bare': ") and said.endswith(".") and "\n" not in said


def test_what_jax_cannot_trace_is_the_cause_of_the_sentence():
    with pytest.raises(InputError) as raised:
        refusals.named(lambda: jax.jit(by_numpy)(WEIGHTS, tiny.images(0, 2, SHAPE)), "in eval mode")
    assert isinstance(raised.value.__cause__, jax.errors.TracerArrayConversionError)


def test_a_network_that_is_trained_keeps_its_weights_in_params():
    (fault,) = conformance.check(Network(lambda key: WEIGHTS, linear, linear), SHAPE, "bare")
    assert "no dict with 'params'" in fault
