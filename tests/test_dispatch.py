"""Programs that are compiled aside: a call waits for its own, whatever the others do."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssdkd_jax.engine import dispatch


class Lowered:
    """A program whose compiler waits until it is let go."""

    def __init__(self, answer):
        self.answer, self.go, self.begun = answer, threading.Event(), threading.Event()

    def lower(self, *_):
        return self

    def compile(self, options):
        assert isinstance(options, dict)
        self.begun.set()
        assert self.go.wait(60)
        if isinstance(self.answer, Exception):
            raise self.answer
        return lambda x: self.answer + x


def test_a_call_waits_for_its_own_program_alone():
    programs = [Lowered(10), Lowered(20)]
    first, second = dispatch.compile_aside([(program, (0,)) for program in programs])
    assert programs[0].begun.wait(60)
    programs[0].go.set()
    assert first(1) == 11
    waiting = threading.Thread(target=lambda: second(1))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    programs[1].go.set()
    waiting.join(60)
    assert not waiting.is_alive() and second(2) == 22


def test_an_error_of_the_compilers_is_that_of_the_call_and_of_waiting():
    program = Lowered(ValueError("no such instruction"))
    program.go.set()
    (pending,) = dispatch.compile_aside([(program, (0,))])
    with pytest.raises(ValueError, match="no such instruction"):
        pending(1)
    with pytest.raises(ValueError, match="no such instruction"):
        dispatch.wait([pending])


def test_an_error_of_another_program_is_told_as_soon_as_it_is_known_and_what_is_not_begun_is_cancelled(monkeypatch):
    monkeypatch.setattr(dispatch, "processors", lambda: 2)
    bad, good, last = Lowered(ValueError("no such instruction")), Lowered(1), Lowered(2)
    bad.go.set()
    pending = dispatch.compile_aside([(program, (0,)) for program in (bad, good, last)])
    with pytest.raises(ValueError, match="no such instruction"):
        pending[0](0)
    with pytest.raises(ValueError, match="no such instruction"):
        dispatch.wait(pending[1:2], pending[:1])
    assert good.begun.wait(60)
    dispatch.cancel(pending)
    good.go.set()
    assert pending[1](1) == 2
    assert pending[2].executable.cancelled() and not last.begun.is_set()


@pytest.mark.parametrize("looped", [False, True])
def test_a_repeated_step_does_the_same_compiled_aside(looped):
    def step(carry, by):
        return carry + by, {"sum": jnp.sum(carry)}

    on_devices = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (jax.local_device_count(), *x.shape)), (jnp.ones(3), jnp.ones(3))
    )
    repeated = dispatch.repeat(step, times=5, looped=looped)
    aside = dispatch.compile_aside([(repeated, on_devices)])
    for found in (*aside, *dispatch.wait(aside)):
        carry, history = found(*jax.tree.map(jnp.copy, on_devices))
        np.testing.assert_array_equal(np.asarray(carry)[0], 6 * np.ones(3))
        np.testing.assert_array_equal(dispatch.fetch(history)["sum"], 3 * np.arange(1, 6))
    assert isinstance(aside[0].dispatch.many, dispatch.Pending)
    assert not isinstance(dispatch.wait(aside)[0].dispatch.many, dispatch.Pending)
