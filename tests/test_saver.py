"""A run is saved beside its steps: what is saved is of the moment, and an error is told."""

import threading

import jax
import numpy as np
import pytest

from ssdkd_jax.engine import checkpoint, checkpoint_folder, parallel
from ssdkd_jax.engine.saver import Saver
from ssdkd_jax.types import Sharded


def host_state():
    rows = np.arange(24, dtype=np.uint8).reshape(8, 3)
    return {"buffer": Sharded(rows=rows), "w": np.arange(5, dtype=np.float32), "n": np.int32(0)}


def restored(folder):
    """(step, tree, note) of the newest checkpoint."""
    return checkpoint.restore(folder, host_state())


@pytest.fixture
def state():
    return parallel.to_devices(host_state())


@pytest.fixture
def held(monkeypatch):
    """While it is not set, no checkpoint comes to be."""
    held, publish = threading.Event(), checkpoint_folder.publish

    def later(*args):
        assert held.wait(60)
        publish(*args)

    monkeypatch.setattr(checkpoint_folder, "publish", later)
    return held


def test_steps_go_on_while_the_state_and_the_note_of_the_moment_are_written(tmp_path, state, held):
    saver, note = Saver(tmp_path, 0.0), {"curve": [1]}
    saver.now_and_then(3, state, note)
    assert checkpoint.newest(tmp_path) is None
    step = parallel.pmap(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate=(0,))
    state = step(state)
    note["curve"].append(2)
    held.set()
    saver.close()
    number, tree, found = restored(tmp_path)
    assert (number, found) == (3, {"curve": [1]})
    jax.tree.map(np.testing.assert_array_equal, tree, host_state())
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y + 1), parallel.to_host(state), host_state())


def test_one_save_is_under_way_at_a_time_and_the_last_is_there_on_return(tmp_path, state, held):
    saver = Saver(tmp_path, 0.0)
    saver.now_and_then(1, state, {})
    second = threading.Thread(target=saver.now, args=(2, state, {}))
    second.start()
    second.join(0.2)
    assert second.is_alive() and checkpoint.newest(tmp_path) is None
    held.set()
    second.join(60)
    assert checkpoint.steps(tmp_path) == [1, 2]
    saver.close()


def test_saves_are_no_more_frequent_than_asked(tmp_path, state):
    saver = Saver(tmp_path, 1000.0)
    saver.now_and_then(1, state, {})
    saver.close()
    assert checkpoint.newest(tmp_path) is None
    saver.now(2, state, {})
    assert checkpoint.steps(tmp_path) == [2]


@pytest.mark.parametrize(("seconds", "saved"), [(10.0, [1, 4]), (0.0, [1, 2, 3, 4])])
def test_steps_stand_still_for_saves_in_a_hundredth_of_the_time(tmp_path, state, monkeypatch, seconds, saved):
    clock, begin, begun = [0.0], checkpoint.begin, []

    def slowly(folder, step, *args):
        begun.append(step)
        clock[0] += 0.5
        return begin(folder, step, *args)

    monkeypatch.setattr(checkpoint, "begin", slowly)
    monkeypatch.setattr("ssdkd_jax.engine.saver.time.monotonic", lambda: clock[0])
    saver = Saver(tmp_path, seconds)
    for step, wait in enumerate((10, 10, 39, 1), 1):  # half a second each is 1 % of fifty
        clock[0] += wait
        saver.now_and_then(step, state, {})
    saver.close()
    assert begun == saved


@pytest.mark.parametrize("next_call", [lambda saver, state: saver.now(3, state, {}), lambda saver, _: saver.close()])
def test_what_went_wrong_is_raised_by_the_next_call_and_the_checkpoint_before_stays(
    tmp_path, state, monkeypatch, next_call
):
    saver = Saver(tmp_path, 0.0)
    saver.now(1, state, {})
    monkeypatch.setattr(checkpoint_folder, "publish", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    saver.now_and_then(2, state, {})
    with pytest.raises(OSError, match="No space left"):
        next_call(saver, state)
    saver.close()
    assert restored(tmp_path)[0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


def test_without_a_folder_nothing_is_saved(state):
    saver = Saver(None, 0.0)
    saver.now_and_then(1, state, {})
    saver.now(2, state, {})
    saver.close()
