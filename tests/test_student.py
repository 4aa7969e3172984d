"""The distillation step, and the batches that a buffer with cached views hands out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from ssdkd_jax import hints, replay_buffer, student
from ssdkd_jax.engine import loop, optimization
from ssdkd_jax.tasks import classification
from ssdkd_jax.types import Batch

TEMPERATURE = 3.0


def batch_of(rng, weights):
    n = len(weights)
    return Batch(
        images=tiny.images(0, n),
        teacher_logits=jnp.asarray(rng.normal(0, 2, (n, tiny.CLASSES)), jnp.float32),
        weights=jnp.asarray(weights, jnp.float32),
        slots=jnp.arange(n),
    )


@pytest.fixture(scope="module")
def linear():
    """A linear student under plain gradient descent: (state, step)."""
    network, tx = tiny.bound(tiny.Linear(tiny.CLASSES)), optax.sgd(1.0)
    state = optimization.init(network, tx, jax.random.key(0))
    return state, jax.jit(
        student.make_step(network, classification.make(tiny.CLASSES, TEMPERATURE), hints.none(), tx, None)
    )


def kernel(state):
    return np.asarray(state.variables["params"]["Dense_0"]["kernel"], np.float64)


def test_update_is_the_hand_made_gradient_of_the_weighted_loss(rng, linear):
    state, step = linear
    weights = np.array([0.5, 2.0, 1.0, 0.0, 1.5, 1.0])
    batch = batch_of(rng, weights)
    after, _, metrics = step(state, batch)
    x = np.asarray(batch.images, np.float64).reshape(6, -1)
    t, s = np.asarray(batch.teacher_logits, np.float64), x @ kernel(state)
    by_logits = TEMPERATURE * (tiny.softmax(s / TEMPERATURE) - tiny.softmax(t / TEMPERATURE))
    gradient = x.T @ (weights[:, None] * by_logits) / 6
    np.testing.assert_allclose(kernel(state) - kernel(after), gradient, rtol=1e-3, atol=1e-5)
    loss = np.mean(weights * TEMPERATURE**2 * tiny.kl(t / TEMPERATURE, s / TEMPERATURE))
    assert float(metrics["distillation"]) == pytest.approx(loss, rel=1e-4)
    assert int(after.step) == 1


def test_gaps_are_the_kl_of_each_image_before_the_step(rng, linear):
    state, step = linear
    batch = batch_of(rng, np.ones(6))
    _, gaps, metrics = step(state, batch)
    s = np.asarray(batch.images, np.float64).reshape(6, -1) @ kernel(state)
    np.testing.assert_allclose(gaps, tiny.kl(batch.teacher_logits, s), rtol=1e-4)
    assert float(metrics["gap"]) == pytest.approx(float(gaps.mean()), rel=1e-5)


def test_an_image_of_weight_zero_teaches_nothing(rng, linear):
    state, step = linear
    batch = batch_of(rng, np.array([1.0, 0, 1, 0, 0, 0]))
    other = batch.replace(images=batch.images.at[jnp.array([1, 3, 4, 5])].set(0.77))
    assert tiny.tree_equal(step(state, batch)[0].variables, step(state, other)[0].variables)


def test_a_student_with_the_teachers_answers_stands_still(rng, linear):
    state, step = linear
    batch = batch_of(rng, np.ones(6))
    batch = batch.replace(teacher_logits=batch.images.reshape(6, -1) @ state.variables["params"]["Dense_0"]["kernel"])
    np.testing.assert_allclose(kernel(step(state, batch)[0]), kernel(state), atol=1e-6)


def test_batch_norm_statistics_move_by_a_tenth_towards_the_batch(rng):
    network, tx = tiny.teacher_network(), optax.sgd(0.1)
    state = optimization.init(network, tx, jax.random.key(0))
    step = student.make_step(network, classification.make(tiny.CLASSES, TEMPERATURE), hints.none(), tx, None)
    batch = batch_of(rng, np.ones(6))
    after, _, _ = jax.jit(step)(state, batch)
    h = tiny.before_batch_norm(state.variables, batch.images)
    stats = after.variables["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(stats["mean"], 0.1 * h.mean((0, 1, 2)), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * h.var((0, 1, 2)), rtol=1e-3)


def drawn_batches(job, state, teacher):
    """Four batches, and how many of their images are not as they are stored."""
    sample, images = jax.jit(job.method.sample), np.asarray(state.method.buffer.shards.rows.images)
    batches = [sample(state.method, teacher, jnp.int32(0), jax.random.key(seed)) for seed in range(4)]
    stored = [images[np.asarray(batch.slots)] / np.float32(255) for batch in batches]
    pairs = zip(np.concatenate(stored), np.concatenate([batch.images for batch in batches]), strict=True)
    return batches, sum(not np.allclose(a, b) for a, b in pairs)


def check_answers(batches, teacher):
    hint = hints.attention(10.0, ((4, 4),))
    answer = jax.jit(lambda v, x: hint.observe(tiny.teacher_network().apply, v, x))
    for batch in batches:
        logits, maps = answer(teacher, batch.images)
        np.testing.assert_allclose(batch.teacher_logits, logits, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(batch.hints, maps, rtol=2e-3, atol=1e-4)


def test_cached_logits_and_maps_are_the_teachers_on_the_view_handed_out(single):
    job, state, teacher = single
    assert state.method.buffer.shards.rows.logits.shape[1:] == (3, tiny.CLASSES)
    batches, changed = drawn_batches(job, state, teacher)
    check_answers(batches, teacher)
    assert tiny.BATCH < changed < 4 * tiny.BATCH  # view 0, the image as it is, is one of three


def test_without_a_cache_the_teacher_answers_in_the_loop(single):
    _, state, teacher = single
    job = tiny.job(tiny.make_config(views__count=0), teacher, axis=None)
    rows = state.method.buffer.shards.rows
    shards = state.method.buffer.shards.replace(rows=rows.replace(logits=rows.logits[:, :0], hints=rows.hints[:, :0]))
    state = state.replace(method=state.method.replace(buffer=state.method.buffer.replace(shards=shards)))
    empty = jax.eval_shape(lambda: loop.init(job.method, job.network, job.tx, 0)).method.buffer.shards.rows.logits
    assert empty.shape == shards.rows.logits.shape
    batches, changed = drawn_batches(job, state, teacher)
    check_answers(batches, teacher)
    assert changed > 3 * tiny.BATCH


def test_a_slot_is_filled_with_the_gap_that_the_distillation_step_measures(single):
    job, state, _ = single
    index, rows = state.method.buffer.index, state.method.buffer.shards.rows
    filled = np.flatnonzero(index.occupied)
    assert len(filled) == tiny.BATCH  # the newcomers of one round: the batch over which BatchNorm took its statistics
    batch = Batch(
        images=rows.images[filled] / np.float32(255),
        teacher_logits=rows.logits[filled, 0],
        weights=jnp.ones(tiny.BATCH),
        slots=jnp.asarray(filled),
        hints=rows.hints[filled, 0],
    )
    _, gaps, _ = jax.jit(job.step)(state.student, batch)
    np.testing.assert_allclose(index.gap[filled], gaps, rtol=1e-4)
    eval_mode = tiny.kl(batch.teacher_logits, job.network.apply(state.student.variables, batch.images))
    assert not np.allclose(eval_mode, gaps, rtol=0.05)


@pytest.mark.parametrize("views", [3, 0])
def test_maps_to_regress_are_the_teachers_cached_or_in_the_loop(teacher_variables, views):
    config = tiny.make_config(student__attention=0.0, student__regression=2.0, views__count=views)
    job = tiny.job(config, teacher_variables, axis=None)
    state = tiny.synthesize(job, tiny.first_state(job), teacher_variables)
    batch = jax.jit(job.method.sample)(state.method, teacher_variables, jnp.int32(0), jax.random.key(0))
    hint = hints.regression(2.0, {(4, 4): 1}, None)
    answer = jax.jit(lambda v, x: hint.observe(tiny.teacher_network().apply, v, x))
    logits, (maps,) = answer(teacher_variables, batch.images)
    np.testing.assert_allclose(batch.teacher_logits, logits, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.asarray(batch.hints[0], np.float32), maps, rtol=2**-8, atol=1e-3)
    _, _, metrics = jax.jit(job.step)(state.student, batch)
    logits_alone = tiny.job(tiny.make_config(student__attention=0.0), teacher_variables, axis=None)
    _, _, plain = jax.jit(logits_alone.step)(state.student, batch)
    _, own = hint.observe(job.network.train, state.student.variables, batch.images)
    left = hint.loss(batch.hints, own, batch.weights)
    np.testing.assert_allclose(metrics["distillation"] - plain["distillation"], left, rtol=1e-3)


def test_cached_logits_do_not_run_the_teacher(single):
    job, state, teacher = single
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), teacher)
    batch = jax.jit(job.method.sample)(state.method, broken, jnp.int32(0), jax.random.key(0))
    assert jnp.isfinite(batch.teacher_logits).all()


def test_feedback_refreshes_gap_and_age_of_the_drawn_slots_only(single):
    job, state, teacher = single
    before = state.method.buffer.index
    batch = jax.jit(job.method.sample)(state.method, teacher, jnp.int32(5), jax.random.key(1))
    gaps = jnp.arange(tiny.BATCH, dtype=jnp.float32)
    after = jax.jit(job.method.feedback)(state.method, batch, gaps, jnp.int32(5)).buffer.index
    slots = np.asarray(batch.slots)
    for slot in range(tiny.SLOTS):
        rows = np.flatnonzero(slots == slot)
        expected = rows.mean() if rows.size else before.gap[slot]
        assert float(after.gap[slot]) == pytest.approx(float(expected), rel=1e-6)
        assert int(after.drawn[slot]) == (5 if rows.size else int(before.drawn[slot]))


def test_what_is_stored_of_a_newcomer_is_the_teachers_view_of_the_stored_image(single):
    _, state, teacher = single
    index, rows = state.method.buffer.index, state.method.buffer.shards.rows
    filled = np.flatnonzero(np.asarray(index.occupied))
    assert len(filled) == tiny.BATCH
    x = jnp.asarray(np.asarray(rows.images)[filled] / np.float32(255))
    f_t, (f_s, _) = tiny.teacher_network().apply(teacher, x), tiny.teacher_network().train(state.student.variables, x)
    p = tiny.softmax(f_t)
    np.testing.assert_array_equal(np.asarray(index.label)[filled], p.argmax(-1))
    np.testing.assert_allclose(np.asarray(index.confidence)[filled], p.max(-1), rtol=1e-4)
    np.testing.assert_allclose(np.asarray(index.gap)[filled], tiny.kl(f_t, f_s), rtol=1e-3, atol=1e-5)


def test_repeated_synthesis_fills_the_buffer_and_evens_out_its_classes(single):
    job, state, teacher = single
    label = jnp.zeros(tiny.SLOTS, jnp.int32)
    full = state.method.buffer.replace(index=state.method.buffer.index.replace(label=label))
    state = state.replace(method=state.method.replace(buffer=full))
    before = np.array([tiny.SLOTS, 0, 0])
    state = tiny.synthesize(job, state, teacher)
    counts = np.asarray(replay_buffer.class_counts(state.method.buffer.index, tiny.CLASSES))
    assert counts.sum() == tiny.SLOTS
    assert counts.max() < before.max()
