"""Costs that are known in closed form."""

import cost
import jax
import numpy as np
import pytest
import tiny
from jax import lax

from ssdkd_jax.engine import parallel

X = jax.ShapeDtypeStruct((6, 10), "float32")


@pytest.mark.parametrize(
    ("step", "passed"),
    [
        (lambda x: lax.psum(x, parallel.AXIS), 2 * 240),
        (lambda x: lax.pmean(x, parallel.AXIS), 2 * 240),
        (lambda x: lax.all_gather(x, parallel.AXIS, tiled=True), 2 * 240),  # of both devices
        (lambda x: lax.psum_scatter(x, parallel.AXIS, tiled=True), 240),
        (lambda x: jax.jit(lambda y: lax.psum(y[0], parallel.AXIS))(x), 2 * 40),
        (lambda x: parallel.local_rows(x, parallel.AXIS), 0),
    ],
)
def test_bytes_of_a_collective_are_those_of_the_ring(step, passed):
    assert cost.payload(step, (X,)) == (passed, int(passed > 0))


def test_collectives_that_wait_for_one_another_are_counted_one_by_one_and_others_together():
    def total(x):
        return lax.psum(x, parallel.AXIS)

    def chain(x):
        return jax.jit(lambda y: total(lax.sin(total(y))))(total(x)), total(x), total(2 * x)

    assert cost.payload(chain, (X,)) == (5 * 2 * 240, 3)


def test_a_batch_gathered_from_shards_passes_as_many_bytes_as_it_has():
    slots = jax.ShapeDtypeStruct((16,), "int32")
    assert cost.payload(lambda x, s: parallel.take_rows(x, s, parallel.AXIS), (X, slots)) == (16 * 40, 1)


@pytest.fixture(scope="module")
def costs():
    cfg = tiny.make_config(sampler__name="uniform", student__batch=16, synthesis__batch=16)
    model = cost.model(cfg, tiny.INPUTS)
    return cfg, {devices: model(devices) for devices in (1, 8)}


@pytest.mark.slow
def test_one_device_sends_nothing_and_eight_send_at_least_the_gradients(costs):
    _, found = costs
    assert all(value.bytes == value.collectives == 0 for value in found[1].values())
    parameters = 3 * 3 * 1 * 6 + 6 + 2 * 6 + 4 * 4 * 6 * tiny.CLASSES + tiny.CLASSES
    assert found[8]["distillation"].bytes > 2 * 7 / 8 * 4 * parameters
    assert found[8]["distillation"].bytes < 2 * 2 * 7 / 8 * 4 * parameters + 16 * (8 * 8 + 4 + 4 * 3 * 3)
    assert found[8]["begin"].bytes == 0


@pytest.mark.slow
def test_work_on_rows_is_shared_and_the_rest_is_not(costs):
    _, found = costs
    for name in ("inversion", "store", "distillation"):
        assert found[1][name].flops / 8 <= found[8][name].flops < found[1][name].flops / 3
    convolution = 2 * 16 * 4 * 4 * 6 * 9  # forward; its gradient with respect to the kernel costs as much again
    assert found[1]["distillation"].flops > 2 * convolution


@pytest.mark.slow
def test_seconds_of_a_round_are_those_of_its_steps(costs):
    cfg, found = costs
    device = cost.Device(flops=1e9, bandwidth=1e6, latency=1e-3)
    times = {"begin": 1, "inversion": 2, "store": 1, "distillation": 2}
    expected = sum(
        n * (found[8][name].flops / 1e9 + found[8][name].bytes / 1e6 + found[8][name].collectives * 1e-3)
        for name, n in times.items()
    )
    np.testing.assert_allclose(cost.a_round(cfg, found[8]).seconds(device), expected)
