"""Which student of a run is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssdkd_jax.run import distillation, snapshots
from ssdkd_jax.types import ModelState, TrainState


def state_of(newest, kept, rounds=6):
    student = ModelState(variables={"w": jnp.float32([newest])}, opt_state=(), step=jnp.int32([0]))
    kept = {"w": jnp.float32([kept])}
    return TrainState(method=(), student=student, snapshot=kept, round=jnp.int32([rounds]), key=())


def fresh(programs, state, teacher, students, batches):
    """KL is the student's weight, and .5 more for the student against which the images were made."""
    against = float(state.student.variables["w"][0])
    values = [float(student["w"][0]) for student in students]
    return [{"fresh_kl": value + 0.5 * (value == against), "agreement": 0.5} for value in values]


@pytest.mark.parametrize(("newest", "kept", "better"), [(1.0, 2.0, True), (2.0, 1.0, False), (2.125, 2.0, True)])
def test_the_newest_student_is_kept_unless_it_is_clearly_worse_on_images_against_either(newest, kept, better):
    state = state_of(newest, kept)
    found, chosen, indicators = snapshots.keep_better(fresh, (), state, (), state.student.variables, 1, False)
    assert chosen == better and float(found.snapshot["w"][0]) == (newest if better else kept)
    np.testing.assert_allclose(indicators["fresh_kl"], newest + 0.5)
    assert found.student is state.student


def test_a_student_whose_answers_are_not_finite_is_not_kept():
    state = state_of(float("nan"), 3.0)
    assert not snapshots.keep_better(fresh, (), state, (), state.student.variables, 1, False)[1]


@pytest.mark.parametrize("newest", [9.0, float("nan")])
def test_the_first_student_that_is_judged_is_kept_whatever_the_run_began_with(newest):
    state = state_of(newest, 1.0)
    found, better, _ = snapshots.keep_better(fresh, (), state, (), state.student.variables, 1, True)
    assert better and np.array_equal(found.snapshot["w"], [newest], equal_nan=True)


def test_a_method_without_images_keeps_the_newest():
    state = state_of(5.0, 1.0)
    found, better, told = snapshots.keep_better(lambda *_: [{}, {}], (), state, (), state.student.variables, 1, False)
    assert better and told == {} and float(found.snapshot["w"][0]) == 5.0


def test_a_run_ends_with_the_kept_student_and_with_what_was_found_of_it():
    judges = distillation.Judges(lambda state: state.student.variables, None, None, None, None)
    curve = [{"round": 4, "accuracy": 0.9, "snapshot": 4}, {"round": 6, "accuracy": 0.7, "snapshot": 4}]
    done = distillation.Distilled(state_of(2.0, 1.0), curve, {}, {}, [], {})
    student, point = distillation.chosen(done, judges)
    assert float(student["w"][0]) == 1.0 and point["accuracy"] == 0.9
    student, point = distillation.chosen(done._replace(state=state_of(2.0, 1.0, rounds=7)), judges)
    assert float(student["w"][0]) == 2.0 and point == {}


def test_the_snapshot_is_a_copy_so_that_a_step_may_take_the_students_memory():
    state = state_of(1.0, 2.0)
    found = snapshots.keep_better(fresh, (), state, (), state.student.variables, 1, False)[0]
    jax.tree.map(lambda x: x.delete(), state.student.variables)
    assert float(found.snapshot["w"][0]) == 1.0
