"""A checkpoint written on some devices resumes on others: nothing lost, nothing doubled, priorities kept."""

import jax
import numpy as np
import pytest
import tiny

from ssdkd_jax.engine import checkpoint, loop, parallel

pytestmark = pytest.mark.eight_devices


def like(job):
    return jax.eval_shape(lambda: loop.init(job.method, job.network, job.tx, 0))


def contents(state):
    """The multiset of what the filled slots hold: image, views' seed, teacher's answers, label and priority."""
    index, rows = state.method.buffer.index, state.method.buffer.shards.rows
    slots = np.flatnonzero(np.asarray(index.label) >= 0)
    columns = (rows.images, rows.seeds, rows.logits, *(index[name] for name in sorted(index.keys())))
    return sorted(tuple(np.asarray(column)[slot].tobytes() for column in columns) for slot in slots)


def test_the_buffer_survives_every_change_of_devices(single, tmp_path, monkeypatch):
    job, state, _ = single
    before, number = jax.tree.map(np.asarray, state), 1
    assert len(contents(before)) == tiny.BATCH
    checkpoint.save(tmp_path, number, parallel.to_save(parallel.to_devices(before)))
    for devices, rows in ((2, 20), (4, 20), (3, 21), (8, 24), (7, 21)):
        tiny.use_devices(monkeypatch, devices)
        _, restored, _ = checkpoint.restore(tmp_path, like(job))
        placed = parallel.to_devices(restored)
        assert placed.method.buffer.shards.rows.images.shape[:2] == (devices, rows // devices)
        number += 1
        checkpoint.save(tmp_path, number, parallel.to_save(placed))
        assert contents(parallel.to_host(placed)) == contents(before)
        rest = (parallel.to_host(placed).student, before.student), (restored.method.generator, before.method.generator)
        assert all(tiny.tree_equal(after, at_first) for after, at_first in rest)


def test_rows_that_hold_something_are_never_taken_for_padding(single, tmp_path, monkeypatch):
    job, state, _ = single
    state = jax.tree.map(np.array, state)
    state.method.buffer.shards.rows.seeds[22] = 1
    checkpoint.save(tmp_path, 1, state)
    tiny.use_devices(monkeypatch, 2)
    with pytest.raises(ValueError, match=r"'method\.buffer\.shards\.rows\.seeds' has shape \(24,\), expected \(20,\)"):
        checkpoint.restore(tmp_path, like(job))
