"""BatchNorm statistics over rounds, against their recurrence in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssdkd_jax import losses, smoothing

M = 0.8


def moments_of(mean, var):
    return losses.Moments(jnp.asarray(mean), jnp.asarray(var), jnp.array([1.0, -2.0]), jnp.array([3.0, 0.5]))


def test_over_rounds_what_is_matched_is_the_exponential_average():
    rng = np.random.default_rng(0)
    batches = rng.normal(size=(4, 2, 2)).astype(np.float32)  # a round's batch, mean or variance, feature
    past = [(jnp.zeros(2), jnp.zeros(2))]
    expected = batches[0]
    for number, batch in enumerate(batches):
        expected = M * expected + (1 - M) * batch
        scratch = smoothing.begin(past, jnp.int32(number), M)
        _, scratch = smoothing.smooth([moments_of(*rng.normal(size=(2, 2)))], scratch)  # an earlier step's: forgotten
        (matched,), scratch = smoothing.smooth([moments_of(*batch)], scratch)
        past = smoothing.finish(scratch)
        for found in ((matched.mean, matched.var), past[0]):
            np.testing.assert_allclose(np.stack(found), expected, rtol=1e-5)


def test_without_momentum_each_batch_is_matched_alone():
    batch, past = moments_of([0.3, 0.7], [1.1, 2.3]), [(jnp.full(2, jnp.nan),) * 2]
    (first,), _ = smoothing.smooth([batch], smoothing.begin([(jnp.zeros(2),) * 2], jnp.int32(0), M))
    (alone,), _ = smoothing.smooth([batch], smoothing.begin([(jnp.ones(2),) * 2], jnp.int32(5), 0.0))
    (spoilt,), _ = smoothing.smooth([batch], smoothing.begin(past, jnp.int32(5), M))
    jax.tree.map(np.testing.assert_array_equal, first, batch)
    jax.tree.map(np.testing.assert_array_equal, alone, batch)
    assert not np.isfinite(spoilt.mean).any()


def test_the_best_match_makes_up_for_the_error_of_the_past():
    error, running = jnp.array([0.2, -0.1]), moments_of(0, 0)
    past = [(running.running_mean + error, running.running_var + error)]
    opposite = -error * M / (1 - M)
    batch = running._replace(mean=running.running_mean + opposite, var=running.running_var + opposite)
    matched, _ = smoothing.smooth([batch], smoothing.begin(past, jnp.int32(1), M))
    assert float(losses.batch_norm_match(matched)) == pytest.approx(0.0, abs=1e-6)
    assert float(losses.batch_norm_match([batch])) > 1.0


def test_a_round_remembers_what_the_teacher_saw_last(teacher_variables):
    cfg = tiny.make_config(synthesis__flip=False, synthesis__shift=0, synthesis__bn_momentum=M)
    job = tiny.build.job(cfg, tiny.INPUTS, tiny.teacher_network(), teacher_variables, axis=None)
    state, synthesis = tiny.first_state(job), job.method.synthesis
    begin, step, loss, finish = (
        jax.jit(f) for f in (synthesis.begin, synthesis.step, synthesis.loss, synthesis.finish)
    )
    method, student, expected = state.method, state.student, None
    for number in range(3):
        key = jax.random.key(number)
        work = begin(method, key)
        for _ in range(2):
            _, (x, *_) = loss(work.variables["params"], work.z, work, teacher_variables, student.variables)
            work, metrics = step(work, teacher_variables, student.variables)
        seen = teacher_sees(teacher_variables, x)
        expected = seen if expected is None else M * expected + (1 - M) * seen
        method, _ = finish(work, method, teacher_variables, student, key)
        np.testing.assert_allclose(np.stack(method.past[0]), expected, rtol=1e-4, atol=1e-5)
        stats = teacher_variables["batch_stats"]["BatchNorm_0"]
        distance = np.linalg.norm(expected - np.stack([stats["mean"], stats["var"]]), axis=-1).sum()
        assert float(metrics["bn"]) == pytest.approx(distance, rel=1e-4)


def teacher_sees(variables, images):
    """Mean and biased variance of what Tiny's BatchNorm sees, by its convolution alone: [2, features]."""
    conv, x = variables["params"]["Conv_0"], (images - tiny.INPUTS.mean[0]) / tiny.INPUTS.std[0]
    h = jax.lax.conv_general_dilated(x, conv["kernel"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    h = np.asarray(h + conv["bias"], np.float64)
    return np.stack([h.mean((0, 1, 2)), h.var((0, 1, 2))])
