"""The loop: what a round leaves behind, resuming, recompilation, and losses that are not finite."""

import jax
import numpy as np
import pytest
import tiny

from ssdkd_jax.engine import checkpoint, hosts, loop, parallel

COMPILED = "/jax/core/compile/backend_compile_duration"


def run(compiled, state, rounds, on_round=lambda *_: None):
    job, programs, _, teacher = compiled
    return loop.run(programs, job.plan._replace(rounds=rounds), state, teacher, tiny.clock, on_round)[0]


@pytest.fixture(scope="module")
def undisturbed(compiled):
    """Four rounds in one go: (state, metrics by round, programs compiled by the end of each round)."""
    metrics, compilations, count = [], [], []

    def listen(event, duration, **_):
        if event == COMPILED:
            count.append(event)

    def on_round(number, state, values):
        metrics.append(values)
        compilations.append(len(count))

    jax.monitoring.register_event_duration_secs_listener(listen)
    jax.jit(lambda x: x * 17)(1.0)  # the listener hears a compilation
    heard = len(count)
    state = run(compiled, parallel.to_devices(compiled[2]), 4, on_round)
    jax.monitoring.unregister_event_duration_listener(listen)
    return parallel.to_host(state), metrics, heard, compilations


def test_nothing_compiles_after_the_first_round(undisturbed):
    _, _, heard, compilations = undisturbed
    assert heard > 0
    assert len(set(compilations)) == 1


def test_warmup_rounds_only_make_images(undisturbed):
    state, metrics, *_ = undisturbed
    assert ["distillation" in values for values in metrics] == [False, True, True, True]
    assert int(state.student.step) == 3 * 2
    assert int(state.round) == int(state.method.round) == 4


def test_the_buffer_fills_and_its_metrics_count_it(undisturbed):
    state, metrics, *_ = undisturbed
    assert [values["filled"] for values in metrics] == [16, 20, 20, 20]
    counts = np.bincount(state.method.buffer.index.label, minlength=tiny.CLASSES)
    assert counts.sum() == tiny.SLOTS
    assert (metrics[-1]["smallest_class"], metrics[-1]["largest_class"]) == (counts.min(), counts.max())
    assert metrics[-1]["buffer_confidence"] == pytest.approx(state.method.buffer.index.confidence.mean(), rel=1e-5)


@pytest.mark.parametrize("stop", [1, 3])
def test_a_run_stopped_and_restored_ends_with_the_same_bits(compiled, undisturbed, tmp_path, stop):
    stopped = run(compiled, parallel.to_devices(compiled[2]), stop)
    checkpoint.save(tmp_path, stop, parallel.to_host(stopped), {"at": stop})
    number, restored, note = checkpoint.restore(tmp_path, compiled[2])
    assert (number, note) == (stop, {"at": stop})
    resumed = run(compiled, parallel.to_devices(restored), 4)
    assert tiny.tree_equal(parallel.to_host(resumed), undisturbed[0])


class StopAfter:
    """Asks to stop from its `calls`-th call on."""

    def __init__(self, calls):
        self.left = calls

    def __call__(self):
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("calls", [0, 1, 3, 5, 6, 8, 11])
def test_a_run_stopped_within_a_round_ends_with_the_same_bits(compiled, undisturbed, calls):
    job, programs, first, teacher = compiled
    plan, rounds, metrics = job.plan._replace(rounds=4), [], []

    def on_round(done, _, values):
        rounds.append(done)
        metrics.append(values)

    arguments = teacher, tiny.clock, on_round
    stopped, begun = loop.run(programs, plan, parallel.to_devices(first), *arguments, stop=StopAfter(calls))
    at = loop.position(stopped)
    assert not at.finished(plan)
    resumed, rest = loop.run(programs, plan, parallel.to_devices(parallel.to_host(stopped)), *arguments, begun=begun)
    assert rest == {}
    assert metrics == undisturbed[1]
    assert loop.position(resumed).finished(plan)
    assert loop.position(resumed).checkpoint > at.checkpoint
    assert rounds == [1, 2, 3, 4]
    assert tiny.tree_equal(parallel.to_host(resumed), undisturbed[0])


@pytest.mark.parametrize("calls", [0, 2, 3, 6, 7])
def test_several_hosts_agree_on_a_stop_once_in_each_half_of_a_round(compiled, undisturbed, monkeypatch, calls):
    job, programs, first, teacher = compiled
    monkeypatch.setattr(hosts, "alone", lambda: False)
    stop, plan = StopAfter(calls), job.plan._replace(rounds=4)
    state, _ = loop.run(programs, plan, parallel.to_devices(first), teacher, tiny.clock, lambda *_: None, stop)
    assert calls - stop.left == min(calls + 1, 7)  # four syntheses, three of them with distillation
    assert loop.position(state) == [(0, 0), (1, 0), (2, 0), (2, 2), (3, 2), (3, 4), (4, 4), (4, 6)][calls]
    assert calls < 7 or tiny.tree_equal(parallel.to_host(state), undisturbed[0])


def test_a_position_says_what_is_due_next_and_where_that_leads():
    plan = loop.Plan(rounds=3, warmup=1, distill_steps=2)
    at, due = loop.Position(0, 0), []
    while not at.finished(plan):
        due.append(tuple(at.due(plan)))
        at = at.after(at.due(plan))
    synthesis, distillation = (True, 0), (False, 2)
    assert due == [synthesis, synthesis, distillation, synthesis, distillation]
    assert at == (3, 4)
    assert loop.Position(2, 1).due(plan) == (False, 1)  # stopped within a round
    assert loop.Position(5, 4).due(plan) == (False, 4)  # a plan that has become shorter owes what was begun
    assert loop.Position(2, 9).due(plan) == (True, 0)


def with_logits(state, value):
    """The state on the host with every cached answer of the teacher set to `value`."""
    buffer = state.method.buffer
    rows = buffer.shards.rows
    rows = rows.replace(logits=np.full_like(rows.logits, value))
    return state.replace(method=state.method.replace(buffer=buffer.replace(shards=buffer.shards.replace(rows=rows))))


def test_distillation_steps_that_are_not_finite_change_nothing_and_are_counted(compiled, undisturbed):
    _, programs, _, teacher = compiled
    before = with_logits(undisturbed[0], np.nan)
    after, history = loop.train_student(programs, parallel.to_devices(before), teacher, 2)
    after = parallel.to_host(after)
    np.testing.assert_array_equal(history["distillation_skipped"], [1, 1])
    assert tiny.tree_equal(after.student.variables, before.student.variables)
    assert tiny.tree_equal(after.method.sampler.params, before.method.sampler.params)
    np.testing.assert_array_equal(after.method.buffer.index.gap, before.method.buffer.index.gap)
    assert int(after.student.step) == int(before.student.step) + 2  # so that the next step draws another batch


def test_as_many_steps_in_a_row_as_configured_stop_the_run_and_name_the_terms(compiled, undisturbed):
    job, programs, _, teacher = compiled
    broken = parallel.to_devices(with_logits(undisturbed[0], np.inf).replace(round=np.int32(5)))
    with pytest.raises(FloatingPointError, match=r"'distillation' is nan, .*in round 5, step 2 \(2 skipped in a row\)"):
        loop.run(programs, job.plan._replace(rounds=5, max_skipped=2), broken, teacher, tiny.clock, pytest.fail)


def test_a_finite_run_skips_nothing(undisturbed):
    for values in undisturbed[1]:
        assert values["inversion_skipped"] == 0
        assert values.get("distillation_skipped", 0) == 0


def test_another_seed_ends_elsewhere(compiled, undisturbed):
    other = compiled[2].replace(key=np.asarray(jax.random.key_data(jax.random.key(9))))
    ended = parallel.to_host(run(compiled, parallel.to_devices(other), 2))
    assert not tiny.tree_equal(ended.method.buffer.shards, undisturbed[0].method.buffer.shards)


def poisoned(state, value):
    return state.replace(
        student=state.student.replace(variables=jax.tree.map(lambda x: np.full_like(x, value), state.student.variables))
    )


def test_a_nan_stops_the_run_before_it_can_be_saved_and_names_the_step(compiled):
    saved = []
    with pytest.raises(FloatingPointError, match=r"'\w+' is nan.* in round 1, step 1 .*; the last good checkpoint"):
        run(compiled, parallel.to_devices(poisoned(compiled[2], np.nan)), 4, lambda *_: saved.append(1))
    assert not saved


def test_weights_that_overflow_in_the_last_step_of_a_round_are_not_saved(compiled):
    job, programs, state, teacher = compiled
    one_step = programs._replace(distill=programs.distill._replace(times=1))
    broken = jax.tree.map(lambda x: np.full_like(x, np.inf) if x.ndim else x, state.student.opt_state)
    state = parallel.to_devices(state.replace(student=state.student.replace(opt_state=broken)))
    saved = []
    with pytest.raises(FloatingPointError, match="the gradient of distillation is not finite in round 1, step 1"):
        loop.run(
            one_step, job.plan._replace(warmup=0), state, teacher, tiny.clock, lambda number, *_: saved.append(number)
        )
    assert not saved


def test_the_callers_state_survives_a_run_from_the_host(compiled, undisturbed):
    assert int(compiled[2].round) == 0
    assert np.isfinite(compiled[2].student.variables["params"]["Dense_0"]["kernel"]).all()
