"""The student's BatchNorm statistics, renewed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from ssdkd_jax.engine import calibration, keys, parallel
from ssdkd_jax.types import Batch, Method

IMAGES = np.random.default_rng(0).uniform(size=(4, tiny.BATCH, *tiny.SHAPE)).astype(np.float32)


def drawing(batches):
    """A method whose batches are these, whatever its state; the key chooses among them."""

    def sample(state, teacher, step, key):
        x = jnp.asarray(batches)[jax.random.randint(key, (), 0, len(batches))]
        return Batch(images=parallel.local_rows(x, parallel.AXIS), teacher_logits=None, weights=None, slots=None)

    return Method(*[None] * 2, sample, *[None] * 4)


def statistics_of(variables, images):
    """Mean and biased variance of what Tiny's BatchNorm sees of images."""
    seen = tiny.before_batch_norm(variables, images.reshape(-1, *tiny.SHAPE))
    return seen.mean((0, 1, 2)), seen.var((0, 1, 2))


def started(compiled):
    job, _, state, teacher = compiled
    return job, parallel.to_devices(jax.tree.map(jnp.asarray, state)), teacher


def test_statistics_become_those_of_the_images_and_nothing_else_changes(compiled):
    job, state, teacher = started(compiled)
    before = jax.tree.map(np.asarray, state)
    found = calibration.make(drawing(IMAGES[:1]), job.network, 7, batches=150)(state, teacher)
    found = parallel.to_host(found)
    mean, var = statistics_of(found, IMAGES[0])
    np.testing.assert_allclose(found["batch_stats"]["BatchNorm_0"]["mean"], mean, atol=1e-4)
    np.testing.assert_allclose(found["batch_stats"]["BatchNorm_0"]["var"], var, rtol=1e-3)
    jax.tree.map(np.testing.assert_array_equal, found["params"], parallel.to_host(state.student.variables)["params"])
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, state))


def test_each_batch_is_another_one_and_the_same_again_the_next_time(compiled):
    job, state, teacher = started(compiled)

    def of(batches):
        found = calibration.make(drawing(IMAGES), job.network, 7, batches)(state, teacher)
        return parallel.to_host(found)["batch_stats"]["BatchNorm_0"]["mean"]

    np.testing.assert_array_equal(of(3), of(3))
    means = np.array([statistics_of(parallel.to_host(state.student.variables), x)[0] for x in IMAGES])
    after = [of(number) for number in range(13)]
    steps = [later - 0.9 * earlier for earlier, later in itertools.pairwise(after)]
    nearest = [np.abs(10 * step - means).sum(-1).argmin() for step in steps]
    assert len(set(nearest)) > 1
    for step, number in zip(steps, nearest, strict=True):
        np.testing.assert_allclose(10 * step, means[number], atol=1e-4)


def test_the_images_are_those_of_the_end_of_a_run_which_are_not_blended(teacher_variables):
    config = tiny.make_config(views__count=0, views__mixup=1.0, student__attention=0.0)
    job = tiny.job(config, teacher_variables, axis=None)
    state = tiny.synthesize(job, tiny.first_state(job), teacher_variables)
    last = (config.schedule.rounds - config.schedule.warmup) * config.schedule.distill_steps
    one = calibration.make_pass(job.method, job.network, last, None)(
        state.student.variables, state, teacher_variables, 0
    )
    key, _ = jax.random.split(keys.of_stage(state.key, keys.Stage.CALIBRATION, 0))
    plain = tiny.job(tiny.make_config(views__count=0, student__attention=0.0), teacher_variables, axis=None)
    images = plain.method.sample(state.method, teacher_variables, jnp.int32(0), key).images
    want = job.network.train(state.student.variables, images)[1]["batch_stats"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one["batch_stats"], want)


def test_no_batches_leave_the_student_as_it_is(compiled):
    job, state, teacher = started(compiled)
    assert calibration.make(job.method, job.network, 7, batches=0)(state, teacher) is state.student.variables


def test_a_student_without_batch_norm_stays_as_it_is(teacher_variables):
    job = tiny.job(tiny.make_config(student__model="tiny:Linear", student__attention=0.0), teacher_variables)
    state = parallel.to_devices(tiny.first_state(job))
    found = calibration.make(drawing(IMAGES), job.network, 7, batches=2)(state, parallel.to_devices(teacher_variables))
    jax.tree.map(np.testing.assert_array_equal, found, state.student.variables)
