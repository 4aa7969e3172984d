"""Layers that compute in bfloat16: what is kept and what is measured stays float32, and the answers stay near."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssdkd_jax import build, models, teacher


def networks():
    return {name: build.network("tiny:Tiny", tiny.INPUTS, None, name) for name in models.COMPUTE}


def test_answers_are_near_those_in_float32_and_are_not_the_same(teacher_variables):
    images = tiny.images(0)
    f32, bf16 = (np.asarray(jax.jit(n.apply)(teacher_variables, images)) for n in networks().values())
    assert f32.dtype == bf16.dtype == np.float32
    assert 0 < np.abs(f32 - bf16).max() < 0.05 * np.abs(f32).max()


def test_parameters_statistics_moments_and_gradients_are_float32(teacher_variables):
    images = tiny.images(1)

    @partial(jax.jit, static_argnums=0)
    def answers(compute):
        def loss(params):
            logits, variables = networks()[compute].train({**teacher_variables, "params": params}, images)
            return jnp.square(logits).mean(), variables

        grads, variables = jax.grad(loss, has_aux=True)(teacher_variables["params"])
        return grads, variables, teacher.observe(networks()[compute], teacher_variables, images).moments

    exact, found = answers("float32"), answers("bfloat16")
    assert found[2]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {"float32"}
    right, near = (np.asarray(grads["Dense_0"]["kernel"]) for grads, *_ in (exact, found))
    assert 0 < np.linalg.norm(near - right) < 0.05 * np.linalg.norm(right)


def test_running_statistics_follow_the_batch_in_float32(teacher_variables):
    images, network = tiny.images(2), networks()
    after = [jax.jit(n.train)(teacher_variables, images)[1]["batch_stats"]["BatchNorm_0"] for n in network.values()]
    for name in ("mean", "var"):
        np.testing.assert_allclose(after[1][name], after[0][name], rtol=0.02, atol=0.01)


def test_another_type_is_refused():
    with pytest.raises(ValueError, match="compute = 'float16' is not one of float32, bfloat16"):
        build.network("tiny:Tiny", tiny.INPUTS, None, "float16")
