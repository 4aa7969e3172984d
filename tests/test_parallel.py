"""Eight devices do what one does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssdkd_jax import build
from ssdkd_jax.engine import loop, parallel

ROWS = 24
pytestmark = pytest.mark.eight_devices


def pmapped(function, *arguments, in_axes):
    return jax.pmap(function, axis_name=parallel.AXIS, in_axes=in_axes)(*arguments)


def test_take_rows_on_eight_devices_is_plain_indexing(rng):
    table = rng.normal(size=(ROWS, 3)).astype(np.float32)
    slots = jnp.asarray(rng.integers(0, ROWS, 16))
    shards = table.reshape(8, 3, 3)
    taken = pmapped(lambda s, i: parallel.take_rows(s, i, parallel.AXIS), shards, slots, in_axes=(0, None))
    np.testing.assert_array_equal(np.reshape(taken, (16, 3)), table[np.asarray(slots)])
    np.testing.assert_array_equal(parallel.take_rows(jnp.asarray(table), slots, None), table[np.asarray(slots)])


def test_take_rows_keeps_unsigned_integers_whole(rng):
    table = rng.integers(0, 2**32, ROWS, dtype=np.uint32)
    slots = jnp.arange(16)
    shards = table.reshape(8, 3)
    taken = pmapped(lambda s, i: parallel.take_rows(s, i, parallel.AXIS), shards, slots, in_axes=(0, None))
    np.testing.assert_array_equal(np.ravel(taken), table[:16])


def test_put_rows_on_eight_devices_is_plain_assignment(rng):
    table = rng.integers(0, 256, (ROWS, 2)).astype(np.uint8)
    rows = rng.integers(0, 256, (8, 2)).astype(np.uint8)
    slots = rng.permutation(ROWS)[:8]
    put = pmapped(
        lambda s, i, r: parallel.put_rows(s, i, r, parallel.AXIS),
        table.reshape(8, 3, 2),
        jnp.asarray(slots),
        rows.reshape(8, 1, 2),
        in_axes=(0, None, 0),
    )
    expected = table.copy()
    expected[slots] = rows
    np.testing.assert_array_equal(np.reshape(put, (ROWS, 2)), expected)
    alone = parallel.put_rows(jnp.asarray(table), jnp.asarray(slots), jnp.asarray(rows), None)
    np.testing.assert_array_equal(alone, expected)


def test_own_rows_and_all_rows_are_inverse_and_statistics_are_global(rng):
    x = rng.normal(size=(16, 2)).astype(np.float32)

    def run(_):
        own = parallel.local_rows(jnp.asarray(x), parallel.AXIS)
        return parallel.all_rows(own, parallel.AXIS), parallel.mean(own.mean(0), parallel.AXIS), own

    together, mean, own = pmapped(run, jnp.zeros(8), in_axes=0)
    np.testing.assert_array_equal(np.reshape(own, (16, 2)), x)
    for device in range(8):
        np.testing.assert_array_equal(together[device], x)
        np.testing.assert_allclose(mean[device], x.mean(0), rtol=1e-5, atol=1e-6)


def test_own_gradient_is_that_of_the_global_mean_loss(rng):
    z = rng.normal(size=16).astype(np.float32)

    def loss(mine, axis):  # a batch statistic and a mean over rows, as in the inversion loss
        return jnp.square(parallel.mean(mine.mean(), axis) - 1.0) + jnp.sin(mine).mean()

    def run(mine):
        return parallel.local_gradient(jax.grad(lambda m: loss(m, parallel.AXIS))(mine), parallel.AXIS)

    split = pmapped(run, z.reshape(8, 2), in_axes=0)
    expected = (2 * (z.mean() - 1) + np.cos(z)) / 16
    np.testing.assert_allclose(np.ravel(split), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda m: loss(m, None))(jnp.asarray(z)), expected, rtol=1e-4, atol=1e-6)


def test_states_go_to_the_devices_and_back_unchanged(compiled):
    _, _, state, _ = compiled
    placed = parallel.to_devices(state)
    assert placed.method.buffer.shards.rows.images.shape[:2] == (8, 3)  # 20 slots, padded to 24 rows
    assert tiny.tree_equal(parallel.to_host(placed), state)


def test_rows_that_do_not_divide_by_the_devices_are_refused():
    with pytest.raises(ValueError, match="20 rows cannot be split over 8 devices"):
        parallel.to_devices(parallel.Sharded(rows=jnp.zeros((20, 2))))


@pytest.mark.parametrize(("rows", "expected"), [(1, 8), (8, 8), (9, 16), (130, 136)])
def test_padding_is_the_next_multiple_of_the_devices(rows, expected):
    assert parallel.padded(rows) == expected


def two_rounds(programs, state, teacher):
    """The state after two rounds, the same on the host, and the metrics of each."""
    state, history = parallel.to_devices(state), []
    for _ in range(2):
        state, synthesized = loop.synthesize(programs, state, teacher)
        state, learnt = loop.train_student(programs, state, teacher, programs.distill.times)
        history.append(synthesized | learnt)
    return state, parallel.to_host(state), history


@pytest.fixture(scope="module")
def eight(compiled):
    _, programs, state, teacher = compiled
    return two_rounds(programs, state, teacher)


@pytest.fixture(scope="module")
def one(compiled, teacher_variables):
    _, _, state, _ = compiled
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_devices(patch, 1)
        job = tiny.job(tiny.make_config(), teacher_variables)
        teacher = parallel.to_devices(teacher_variables)
        programs = loop.compile_round(job.method, job.step, job.plan, parallel.to_devices(state), teacher)
        return two_rounds(programs, state, teacher)


def test_one_device_and_eight_have_the_same_losses(one, eight):
    for alone, split in zip(one[2], eight[2], strict=True):
        assert alone.keys() == split.keys()
        assert {"inversion", "bn", "oh", "adv", "distillation", "gap", "weight", "filled"} <= alone.keys()
        for name, values in alone.items():
            np.testing.assert_allclose(split[name], values, rtol=2e-3, atol=1e-4, err_msg=name)


def test_one_device_and_eight_hold_the_same_buffer(one, eight):
    alone, split = (run[1].method.buffer for run in (one, eight))
    np.testing.assert_array_equal(split.index.label, alone.index.label)
    np.testing.assert_array_equal(split.index.drawn, alone.index.drawn)
    np.testing.assert_array_equal(split.shards.rows.seeds[: tiny.SLOTS], alone.shards.rows.seeds[: tiny.SLOTS])
    images = (np.asarray(b.shards.rows.images[: tiny.SLOTS], np.int32) for b in (alone, split))
    assert np.abs(np.subtract(*images)).max() <= 2


def test_one_device_and_eight_have_the_same_student(one, eight):
    alone, split = (run[1].student.variables for run in (one, eight))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3), alone, split)


def test_one_device_and_eight_have_the_same_gradients(one, eight):
    """The sums of gradients that the optimisers of student and generator keep: momentum, and Adam's first moment."""
    for part in (lambda state: state.student.opt_state, lambda state: state.method.generator.opt_state):
        alone, split = (jax.tree.leaves(part(run[1])) for run in (one, eight))
        assert max(np.abs(leaf).max() for leaf in alone if leaf.ndim) > 0
        for a, b in zip(alone, split, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-2, atol=1e-3 * max(1e-3, np.abs(a).max()))


def test_what_differs_between_devices_is_named_and_sharded_parts_may(eight):
    state = eight[0]
    parallel.check_replicated(state)
    kernel = state.student.variables["params"]["Dense_0"]["kernel"]
    apart = kernel.at[3, 0, 0].add(1e-3)
    with pytest.raises(RuntimeError, match=r"'Dense_0\.kernel' differs between devices at the end of the run"):
        parallel.check_replicated({"Dense_0": {"kernel": apart, "bias": kernel}})


def test_batches_of_each_device_grow_with_the_devices():
    fixed, grown = (build.for_devices(tiny.make_config(batch_per_device=flag)) for flag in (False, True))
    for part in ("teacher", "student", "synthesis"):
        assert grown[part].batch == 8 * fixed[part].batch
        assert fixed[part].batch == tiny.make_config()[part].batch


def test_all_eight_devices_hold_the_same_replicated_values(eight):
    state = eight[0]
    for tree in (state.student, state.method.generator, state.method.sampler, state.method.buffer.index, state.key):
        for leaf in jax.tree.leaves(tree):
            copies = np.asarray(leaf)
            assert copies.shape[0] == 8
            np.testing.assert_array_equal(copies, np.broadcast_to(copies[:1], copies.shape))


def test_devices_hold_different_rows_of_the_buffer(eight):
    images = np.asarray(eight[0].method.buffer.shards.rows.images)[:, 0]
    assert len({image.tobytes() for image in images[:6]}) == 6
