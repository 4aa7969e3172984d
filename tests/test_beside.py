"""Procedural images beside a method's own: what the student sees, and that the method learns nothing from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssdkd_jax.engine import parallel
from ssdkd_jax.errors import InputError
from ssdkd_jax.sources import procedural

COUNT = 8


def built(variables, count, **fields):
    """A job, its state after a synthesis, and a batch of it."""
    job = tiny.job(tiny.make_config(student__procedural=count, **fields), variables, axis=None)
    state = tiny.synthesize(job, tiny.first_state(job), variables)
    return job, state


@pytest.mark.parametrize("fields", [{}, {"views__count": 0, "student__attention": 0.0}, {"method__name": "fast_dfkd"}])
def test_a_batch_ends_with_procedural_images_and_what_the_teacher_answers_to_them(teacher_variables, fields):
    if "method__name" in fields:
        fields = {**fields, "views__count": 0, "synthesis__bn_past": 0.0}
    (with_them, state), (without, _) = (built(teacher_variables, count, **fields) for count in (COUNT, 0))
    key = jax.random.key(3)
    of_method, of_source = jax.random.split(key)
    long = jax.jit(with_them.method.sample)(state.method, teacher_variables, jnp.int32(1), key)
    own = jax.jit(without.method.sample)(state.method, teacher_variables, jnp.int32(1), of_method)
    drawn = procedural.draw(of_source, COUNT, tiny.SHAPE)
    np.testing.assert_allclose(long.images, jnp.concatenate([own.images, drawn]), atol=1e-6)
    answers = tiny.teacher_network().apply(teacher_variables, drawn)
    np.testing.assert_allclose(long.teacher_logits[-COUNT:], answers, atol=1e-5)
    np.testing.assert_allclose(long.teacher_logits[:-COUNT], own.teacher_logits, atol=1e-5)
    np.testing.assert_array_equal(long.weights, np.concatenate([own.weights, np.ones(COUNT)]))
    np.testing.assert_array_equal(long.slots, own.slots)
    assert jax.tree.all(
        jax.tree.map(lambda x, y: len(x) == len(y) + COUNT and x.dtype == y.dtype, long.hints, own.hints)
    )


def test_the_sampler_and_the_buffer_learn_of_the_methods_own_images_alone(teacher_variables):
    job, state = built(teacher_variables, COUNT)
    batch = jax.jit(job.method.sample)(state.method, teacher_variables, jnp.int32(2), jax.random.key(0))
    gaps = np.linspace(1, 2, tiny.BATCH + COUNT, dtype=np.float32)
    spoilt = np.where(np.arange(len(gaps)) < tiny.BATCH, gaps, 1e9).astype(np.float32)
    feedback = jax.jit(job.method.feedback)
    after, same = (feedback(state.method, batch, jnp.asarray(g), jnp.int32(2)) for g in (gaps, spoilt))
    assert tiny.tree_equal(after, same)
    before = np.asarray(state.method.buffer.index.gap)
    assert not np.array_equal(after.buffer.index.gap, before)


@pytest.mark.eight_devices
def test_their_number_divides_by_the_devices(teacher_variables):
    with pytest.raises(InputError, match=r"student\.procedural = 12"):
        tiny.job(tiny.make_config(student__procedural=12), teacher_variables)


@pytest.mark.eight_devices
def test_eight_devices_draw_what_one_does(teacher_variables):
    job, state = built(teacher_variables, COUNT)
    split = tiny.job(tiny.make_config(student__procedural=COUNT), teacher_variables)
    key = jax.random.key_data(jax.random.key(4))

    def drawn(method, state, variables):
        batch = method.sample(state.method, variables, jnp.int32(1), jax.random.wrap_key_data(key))
        return batch.images, batch.teacher_logits, batch.weights

    alone = jax.jit(lambda *given: drawn(job.method, *given))(state, teacher_variables)
    placed = parallel.to_devices((state, teacher_variables))
    parts = jax.device_get(parallel.pmap(lambda *given: drawn(split.method, *given))(*placed))
    for whole, part in zip(alone, parts, strict=True):
        own, beside = np.split(part, [tiny.BATCH // 8], axis=1)
        together = np.concatenate([x.reshape(-1, *x.shape[2:]) for x in (own, beside)])
        np.testing.assert_allclose(together, whole, atol=1e-5)
