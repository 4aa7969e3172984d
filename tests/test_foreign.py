"""Data sets that are not what they should be, or not what a teacher was trained on."""

import jax
import numpy as np
import pytest
import tiny

from ssdkd_jax import data
from ssdkd_jax.interop import saved
from ssdkd_jax.run import evaluation, foreign, summary


@pytest.fixture
def dataset(rng, teacher_variables):
    """Images whose labels are what the tiny teacher answers."""
    images = rng.integers(0, 256, (48, *tiny.SHAPE), np.uint8)
    logits = tiny.teacher_network().apply(teacher_variables, images / np.float32(255))
    labels = np.asarray(logits.argmax(-1), np.int32)
    return data.Dataset(images, labels, images, labels, tiny.CLASSES, tiny.INPUTS.mean, tiny.INPUTS.std)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (lambda d: {"test_images": d.test_images / np.float32(255)}, r"test_images are float32 .*; give uint8"),
        (lambda d: {"train_images": d.train_images[..., 0]}, r"train_images are uint8 of shape \[48, 8, 8\]; give"),
        (lambda d: {"test_labels": d.test_labels + 1}, "test_labels are int32 .* whole numbers from 0 to 2"),
        (lambda d: {"test_labels": d.test_labels - 3}, "test_labels are int32 .* whole numbers from 0 to 2"),
        (lambda d: {"train_labels": np.eye(3)[d.train_labels]}, "train_labels are float64 .* one an image or a pixel"),
        (lambda d: {"train_labels": d.train_labels[1:]}, r"of shape \[47\], for 48 images"),
        (lambda d: {"mean": (77.85,), "std": (95.88,)}, "divide them by 255"),
        (lambda d: {"std": (0.3, 0.3)}, "do not normalise 1 channels"),
    ],
)
def test_a_data_set_of_ones_own_is_looked_at_first(dataset, fields, sentence):
    evaluation.inputs(tiny.make_config(), dataset)
    with pytest.raises(ValueError, match=sentence):
        evaluation.inputs(tiny.make_config(), dataset._replace(**fields(dataset)))


def test_labels_of_pixels_may_be_missing(dataset):
    labels = np.full((48, 8, 8), 255, np.uint8)
    evaluation.check(dataset._replace(train_labels=labels, test_labels=labels))


@pytest.mark.parametrize(
    ("reached", "note", "classes", "why"),
    [
        (0.90, {"accuracy": 0.95}, 10, ""),
        (0.84, {"accuracy": 0.95}, 10, "where it was saved with 0.9500"),
        (0.84, {}, 10, ""),
        (0.15, {}, 10, "where chance is 0.1000"),
        (0.15, {"accuracy": "high"}, 10, "where chance is 0.1000"),
        (0.54, {}, 2, "where chance is 0.5000"),
        (0.15, {"accuracy": 0.2}, 100, ""),
    ],
)
def test_a_data_set_is_foreign_far_below_the_saved_score_or_near_chance(reached, note, classes, why):
    found = foreign.remark("accuracy", reached, note, classes)
    assert why in found
    assert bool(found) == bool(why)


def test_agreement_is_the_share_of_equal_answers(dataset, teacher_variables):
    network = tiny.teacher_network()
    rolled = jax.tree.map(lambda x: x, dict(teacher_variables))
    dense = rolled["params"]["Dense_0"]
    other = {**rolled, "params": {**rolled["params"], "Dense_0": jax.tree.map(lambda x: np.roll(x, 1, -1), dense)}}
    teacher = (network, teacher_variables)
    assert foreign.agreement(dataset, teacher, teacher, 20) == 1
    assert foreign.agreement(dataset, teacher, (network, other), 20) == 0


def test_the_line_of_scores_says_so():
    scores = {"score": "accuracy", "teacher_accuracy": 0.1, "student_accuracy": 0.2, "real_subset_accuracy": None}
    plain = "teacher_accuracy 0.1000, student_accuracy 0.2000"
    assert summary.sentence(scores) == plain
    assert summary.sentence(scores | {"foreign": "", "test_agreement": 0.9}) == plain
    foreign = scores | {"foreign": "why", "agreement": 0.8, "test_agreement": 0.9}
    told = f"{plain}, agreement on fresh images 0.8000, on test images 0.9000 (why)"
    assert summary.sentence(foreign) == told


@pytest.mark.parametrize("foreign_labels", [False, True])
def test_evaluating_a_model_on_foreign_data_warns(tmp_path, dataset, teacher_variables, caplog, foreign_labels):
    saved.save(tmp_path, teacher_variables, saved.note("tiny:Tiny", tiny.INPUTS, accuracy=1.0))
    labels = (dataset.test_labels + foreign_labels) % tiny.CLASSES
    scores = evaluation.evaluate_saved(tiny.make_config(), dataset._replace(test_labels=labels), tmp_path, "tiny:Tiny")
    assert scores["accuracy"] == (0.0 if foreign_labels else 1.0)
    assert ["saved with 1.0000" in record.getMessage() for record in caplog.records] == [True] * foreign_labels
