"""Blended images: what the student and the teacher see of them, and that they tell nothing of a slot's gap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_student import check_answers

from ssdkd_jax import build


def test_mixup_blends_a_share_of_the_images_and_asks_the_teacher_about_the_blends(teacher_variables):
    def batches(share):
        config = tiny.make_config(views__count=0, views__mixup=share, views__mixup_until=0.5)
        assert build.student_steps(config) == 6
        job = tiny.job(config, teacher_variables, axis=None)
        state = tiny.synthesize(job, tiny.first_state(job), teacher_variables)
        sample = jax.jit(job.method.sample)
        return [sample(state.method, teacher_variables, jnp.int32(step), jax.random.key(0)) for step in (2, 3)]

    (plain, plain_later), (blended, blended_later) = batches(0.0), batches(0.75)
    np.testing.assert_array_equal(blended_later.images, plain_later.images)
    np.testing.assert_array_equal(plain.slots, blended.slots)
    check_answers([blended], teacher_variables)
    before, after = (np.asarray(b.images, np.float64).reshape(len(b.images), -1) for b in (plain, blended))
    changed = np.abs(after - before).max(1) > 1e-6
    assert 0 < changed.sum() < len(before)
    assert plain.unblended.all()
    np.testing.assert_array_equal(after[blended.unblended], before[blended.unblended])
    assert not changed[blended.unblended].any()
    assert blended.unblended.sum() < len(before)
    for own, mixed in zip(before[changed], after[changed], strict=True):
        others = np.array([x for x in before if (x != own).any()])
        share = ((own - others) * (mixed - others)).sum(1) / ((own - others) ** 2).sum(1)
        left = np.abs(others + share[:, None] * (own - others) - mixed).max(1)
        assert left.min() < 1e-6
        assert 0 <= share[left.argmin()] <= 1


@pytest.mark.parametrize("name", ["priority", "policy_gradient"])
def test_a_blend_leaves_the_gap_of_its_slot_and_the_policy_as_they_are(teacher_variables, name):
    config = tiny.make_config(views__count=0, views__mixup=0.5, sampler__name=name)
    job = tiny.job(config, teacher_variables, axis=None)
    state = tiny.synthesize(job, tiny.first_state(job), teacher_variables)
    batch = jax.jit(job.method.sample)(state.method, teacher_variables, jnp.int32(2), jax.random.key(0))
    own, slots = np.asarray(batch.unblended), np.asarray(batch.slots)
    feedback, gaps = jax.jit(job.method.feedback), np.linspace(1, 2, tiny.BATCH, dtype=np.float32)
    after = feedback(state.method, batch, jnp.asarray(gaps), jnp.int32(2))
    spoilt = feedback(state.method, batch, jnp.asarray(np.where(own, gaps, 1e9)), jnp.int32(2))
    assert tiny.tree_equal(after, spoilt)
    before = np.asarray(state.method.buffer.index.gap)
    expected = [gaps[own & (slots == s)].mean() if (own & (slots == s)).any() else before[s] for s in range(tiny.SLOTS)]
    np.testing.assert_allclose(after.buffer.index.gap, expected, rtol=1e-6)
    assert 0 < own.sum() < tiny.BATCH
