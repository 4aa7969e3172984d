"""The run as a library calls it: values in, no flags, a folder out."""

import logging

import jax
import numpy as np
import pytest
import tiny

from ssdkd_jax import data
from ssdkd_jax.engine import preemption
from ssdkd_jax.interop import saved
from ssdkd_jax.report import progress
from ssdkd_jax.run import pipeline, profiling, teacher, yardstick

OTHER = tiny.INPUTS._replace(mean=(0.1,), std=(0.9,))  # than the data set's
SHORT = dict(schedule__rounds=2, schedule__warmup=1, schedule__evaluate_every=1, yardstick_steps=2)


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (48, *tiny.SHAPE), np.uint8)
    labels = np.arange(48, dtype=np.int32) % tiny.CLASSES
    return data.Dataset(images, labels, images, labels, tiny.CLASSES, tiny.INPUTS.mean, tiny.INPUTS.std)


@pytest.fixture
def checkpoint(tmp_path, teacher_variables):
    """A teacher that was trained on images normalised otherwise than the data set's."""
    saved.save(tmp_path / "saved", teacher_variables, saved.note("tiny:Tiny", OTHER))
    return str(tmp_path / "saved")


def test_a_run_that_was_stopped_goes_on_and_its_student_is_normalised_as_its_teacher_was(
    tmp_path, dataset, checkpoint, one_device, caplog, monkeypatch
):
    measured = []
    train = yardstick.train
    monkeypatch.setattr(yardstick, "train", lambda c, d, inputs, stop: measured.append(inputs) or train(c, d, inputs))
    config = tiny.make_config(teacher__checkpoint=checkpoint, **SHORT)
    with pytest.raises(preemption.Preempted, match="after synthesis 0, and saved"):
        pipeline.run(config, dataset, tmp_path / "run", stop=lambda: True)
    assert not (tmp_path / "run" / "summary.json").exists()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        found = pipeline.run(config, dataset, tmp_path / "run")
    note = saved.load(tmp_path / "run" / "student", "tiny:Tiny").note
    assert (note["mean"], note["std"]) == ([0.1], [0.9])
    assert [(inputs.mean, inputs.std) for inputs in measured] == [((0.1,), (0.9,))]
    (line,) = [record.getMessage() for record in caplog.records if "normalises" in record.getMessage()]
    assert "mean (0.1,) and std (0.9,), not the data set's (0.4,) and (0.3,)" in line
    assert note["accuracy"] == found["student_accuracy"] == found["curve"][-1]["accuracy"]
    assert 0 <= found["real_subset_accuracy"] <= 1


def test_a_teacher_of_the_data_sets_own_normalisation_is_taken_in_silence(
    tmp_path, dataset, teacher_variables, one_device, caplog
):
    saved.save(tmp_path / "saved", teacher_variables, saved.note("tiny:Tiny", tiny.INPUTS))
    config = tiny.make_config(teacher__checkpoint=str(tmp_path / "saved"))
    assert teacher.obtain(config, dataset, tmp_path, progress.Stopwatch()).inputs == tiny.INPUTS
    assert not caplog.records


def test_steps_of_other_methods_are_timed_too(teacher_variables, one_device):
    config = tiny.make_config(method__name="generative", views__count=0)
    seconds = profiling.in_loop_seconds(config, tiny.teacher_network(), teacher_variables, tiny.INPUTS, times=1)
    assert seconds > 0


def test_the_state_to_time_on_has_images(compiled):
    job, programs, _, on_devices = compiled
    state = profiling.synthesized(programs, profiling.first_state(job, 0), on_devices)
    assert (np.asarray(jax.device_get(state.method.buffer.index.label[0])) >= 0).sum() == tiny.BATCH
