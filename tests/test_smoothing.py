"""BatchNorm statistics over rounds, against their recurrence in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssdkd_jax import losses, smoothing

M = 0.8
ROUNDS = np.random.default_rng(0).normal(size=(8, 2, 2)).astype(np.float32)  # of each: mean and variance of 2 features
ALONE = smoothing.exponential(0.0)


def moments_of(mean, var):
    return losses.Moments(jnp.asarray(mean), jnp.asarray(var), jnp.array([1.0, -2.0]), jnp.array([3.0, 0.5]))


def rounds_of(batches, average):
    """(what is matched, the past thereafter) of each round, as arrays [2, features]."""
    past, over = [(jnp.zeros(2), jnp.zeros(2))], smoothing.over_rounds(None, (), M, average)
    for round_index, batch in enumerate(batches):
        scratch = over.begin(past, jnp.int32(round_index))
        _, scratch = smoothing.smooth([moments_of(*batch[::-1])], scratch)  # an earlier step's: forgotten
        (matched,), scratch = smoothing.smooth([moments_of(*batch)], scratch)
        past = smoothing.finish(scratch)
        yield np.stack([matched.mean, matched.var]), np.stack(past[0])


def test_the_exponential_average_is_what_is_matched():
    batches, expected = ROUNDS, ROUNDS[0]
    for batch, (matched, past) in zip(batches, rounds_of(batches, smoothing.exponential(M)), strict=True):
        expected = M * expected + (1 - M) * batch
        np.testing.assert_allclose(matched, expected, rtol=1e-5)
        np.testing.assert_allclose(past, expected, rtol=1e-5)


def test_the_past_of_a_buffer_is_the_mean_over_the_rounds_that_it_holds():
    found = [past for _, past in rounds_of(ROUNDS, smoothing.of_the_last(100))]
    for number, past in enumerate(found):
        np.testing.assert_allclose(past, ROUNDS[: number + 1].mean(0), rtol=1e-4)
    matched = [matched for matched, _ in rounds_of(ROUNDS, smoothing.of_the_last(100))]
    np.testing.assert_allclose(matched[5], M * ROUNDS[:5].mean(0) + (1 - M) * ROUNDS[5], rtol=1e-4)
    *_, (_, short) = rounds_of(ROUNDS, smoothing.of_the_last(3))
    expected = ROUNDS[:3].mean(0)
    for batch in ROUNDS[3:]:
        expected += (batch - expected) / 3
    np.testing.assert_allclose(short, expected, rtol=1e-4)


def test_without_a_share_of_the_past_each_batch_is_matched_alone():
    batch, past = moments_of([0.3, 0.7], [1.1, 2.3]), [(jnp.full(2, jnp.nan),) * 2]
    over, none = smoothing.over_rounds(None, (), M, ALONE), smoothing.none()
    zero = smoothing.over_rounds(None, (), 0.0, ALONE)
    (first,), _ = over.smooth([batch], over.begin([(jnp.zeros(2),) * 2], jnp.int32(0)))
    (alone,), _ = zero.smooth([batch], zero.begin([(jnp.ones(2),) * 2], jnp.int32(5)))
    assert none.smooth([batch], none.begin(none.init(), jnp.int32(5))) == ([batch], ())
    (spoilt,), _ = over.smooth([batch], over.begin(past, jnp.int32(5)))
    jax.tree.map(np.testing.assert_array_equal, first, batch)
    jax.tree.map(np.testing.assert_array_equal, alone, batch)
    assert not np.isfinite(spoilt.mean).any()


def test_the_best_match_makes_up_for_the_error_of_the_past():
    error, running = jnp.array([0.2, -0.1]), moments_of(0, 0)
    past = [(running.running_mean + error, running.running_var + error)]
    opposite = -error * M / (1 - M)
    batch = running._replace(mean=running.running_mean + opposite, var=running.running_var + opposite)
    over = smoothing.over_rounds(None, (), M, ALONE)
    matched, _ = over.smooth([batch], over.begin(past, jnp.int32(1)))
    assert float(losses.batch_norm_match(matched)) == pytest.approx(0.0, abs=1e-6)
    assert float(losses.batch_norm_match([batch])) > 1.0


def test_a_round_remembers_what_the_teacher_saw_of_the_images_that_are_kept(teacher_variables):
    views, fast = {"synthesis__flip": False, "synthesis__shift": 0}, {"synthesis__lr_generator": 1.0}
    cfg = tiny.make_config(synthesis__bn_past=M, **views, **fast)
    job = tiny.build.job(cfg, tiny.INPUTS, tiny.teacher_network(), teacher_variables, axis=None)
    state, synthesis = tiny.first_state(job), job.method.synthesis
    held = tiny.SLOTS / tiny.BATCH
    begin, step, loss, finish = (
        jax.jit(f) for f in (synthesis.begin, synthesis.step, synthesis.loss, synthesis.finish)
    )
    method, student, past, overshot = state.method, state.student, np.zeros((2, 6)), 0
    for number in range(3):
        key = jax.random.key(number)
        work = begin(method, key)
        for _ in range(2):
            x = loss(work.params, work, teacher_variables, student.variables)[1].images
            work, metrics = step(work, teacher_variables, student.variables)
        seen, share = teacher_sees(teacher_variables, x), M if number else 0
        stats = teacher_variables["batch_stats"]["BatchNorm_0"]
        missed = share * past + (1 - share) * seen - np.stack([stats["mean"], stats["var"]])
        assert float(metrics["bn"]) == pytest.approx(np.linalg.norm(missed, axis=-1).sum(), rel=1e-4)
        kept = teacher_sees(teacher_variables, work.best_images)
        overshot += not np.allclose(kept, seen, rtol=1e-2)
        past += (kept - past) / min(number + 1, held)
        method, _ = finish(work, method, teacher_variables, student, key)
        np.testing.assert_allclose(np.stack(method.past[0]), past, rtol=1e-4, atol=1e-5)
    assert overshot


def teacher_sees(variables, images):
    """Mean and biased variance of what Tiny's BatchNorm sees: [2, features]."""
    h = tiny.before_batch_norm(variables, images)
    return np.stack([h.mean((0, 1, 2)), h.var((0, 1, 2))])
