"""What is handed to the library's calls: how a student is judged by it, and what is wrong with it in one sentence."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from calls import SMALL, distil, flat, small
from ml_collections import ConfigDict

import ssdkd_jax
from ssdkd_jax import errors
from ssdkd_jax.api import judges
from ssdkd_jax.engine import parallel

pytestmark = pytest.mark.usefixtures("one_device")


def test_a_networks_score_is_that_of_the_users_function(teacher):
    images = np.random.default_rng(0).integers(0, 256, (20, *tiny.SHAPE), np.uint8)
    told, config, variables = np.argmax(teacher(images), -1), small(), parallel.to_devices(teacher.variables)
    agree = lambda network: {"same": np.mean(np.argmax(network(images), -1) == told), "other": 7}  # noqa: E731
    judge = judges.judge_of(agree, config, teacher)
    assert judge.score == "same" and judge.scores(teacher.network)(variables) == {"same": 1.0, "other": 7.0}
    judge = judges.judge_of(lambda network: ssdkd_jax.compare(teacher, network, images), config, teacher)
    assert judge.score == "test_agreement" and judge.scores(teacher.network)(variables)["test_agreement"] == 1
    judge = judges.judge_of(lambda network: np.float32(0.25), config, teacher)
    assert judge.scores(teacher.network)(variables) == {judge.score: 0.25}


def test_floats_and_bytes_are_judged_alike(teacher):
    images = np.random.default_rng(0).integers(0, 256, (20, *tiny.SHAPE), np.uint8)
    labels, variables = np.argmax(teacher(images), -1), parallel.to_devices(teacher.variables)
    for given in (images, images / np.float32(255), jnp.asarray(images), (images / 255).tolist()):
        judge = judges.judge_of((given, labels), small(), teacher)
        assert judge.scores(teacher.network)(variables)["accuracy"] == 1


class Wrong(nn.Module):
    """Answers four classes where three are asked for."""

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(4)(images.reshape(images.shape[0], -1))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda t: distil(t, rounds=0), r"schedule\.rounds = 0 is not a whole number of at least 1"),
        (lambda t: distil(t, rounds=2.5), r"schedule\.rounds = 2\.5 is not a whole number"),
        (lambda t: distil(t, seed=-1), "seed = -1 is not a whole number of at least 0"),
        (lambda t: distil(t, task="regression"), "task.name = 'regression' is not one of classification, segmentation"),
        (lambda t: distil(t, task="segmentation"), r"takes logits of shape \[1, 8, 8, 'C'\]"),
        (lambda t: distil(t, config="sskd"), "method = 'sskd' is not one of .* did you mean 'ssdkd'"),
        (lambda t: distil(t, config={"seed": 1}), "config is a dict; give a ConfigDict"),
        (lambda t: ssdkd_jax.distill(t, "wrn10-1", small()), "Unknown model 'wrn10-1'; did you mean 'wrn10_1'"),
        (lambda t: ssdkd_jax.distill(t, 3, small()), "The student 3 is no share of its teacher's channels"),
        (lambda t: ssdkd_jax.distill(t, Wrong(), small()), "student .* answers 4 classes but the teacher 3"),
        (lambda t: ssdkd_jax.distill(t, tiny.Careless(3), small()), "Model 'tiny:Careless': "),
        (lambda t: ssdkd_jax.distill("nowhere", "wrn10_1"), "No saved model in 'nowhere'"),
        (lambda t: ssdkd_jax.synthesize(t, 0), "n = 0 is not a whole number of at least 1"),
        (lambda t: ssdkd_jax.synthesize(t, 2.0), "n = 2.0 is not a whole number of at least 1"),
        (lambda t: ssdkd_jax.synthesize(t, True), "n = True is not a whole number"),
        (lambda t: distil(t, evaluate=np.zeros((3, 8, 8, 1))), r"evaluate is a ndarray; give \(images, labels\)"),
        (lambda t: distil(t, evaluate=(np.zeros((3, 8, 8)), np.zeros(3, int))), r"Images have shape \[3, 8, 8\]"),
        (lambda t: distil(t, evaluate=(np.full((3, 8, 8, 1), 9.0), [0, 1, 2])), "Images hold values from 9 to 9"),
        (lambda t: distil(t, evaluate=(np.zeros((3, 8, 8, 1), int), np.zeros(3, int))), "Images are of type int64"),
        (lambda t: distil(t, evaluate=(np.zeros((3, 8, 8, 1)), [0, 1])), r"labels of type int64 and shape \[2\]"),
        (lambda t: distil(t, evaluate=(np.zeros((3, 8, 8, 1)), np.array([0, 1, 3]))), "whole numbers from 0 to 2"),
        (lambda t: distil(t, evaluate=(np.zeros((0, 8, 8, 1)), np.zeros(0, int))), "evaluate holds no image"),
        (lambda t: distil(t, evaluate=(np.zeros((3, 8, 8, 1)), np.zeros((3, 8, 8), int))), r"of shape \[3\]"),
        (lambda t: distil(t, evaluate=(np.zeros((3, 8, 8, 1)), [0, -1, 1])), "whole numbers from 0 to 2"),
        (lambda t: ssdkd_jax.distill(t, "tiny:Careless", small()), "Model 'tiny:Careless': "),
        (lambda t: ssdkd_jax.distill(5, "wrn10_1"), "The teacher is a int; make one by"),
        (lambda t: distil(t, config=ConfigDict({"seed": 1})), "is missing; set it to"),
        (lambda t: ssdkd_jax.Teacher.from_linen(Wrong(), t.variables["params"], **SMALL), "hold .* and no 'params'"),
        (lambda t: ssdkd_jax.Teacher.from_function(flat, 0, image_shape=8), "image_shape = 8 is not"),
        (lambda t: distil(t, evaluate=lambda network: "good"), "evaluate answers 'good'; let it answer a number"),
        (lambda t: ssdkd_jax.Teacher.from_function(lambda v, x: np.asarray(x), 0, **SMALL), "'function .*lambda.*"),
        (lambda t: ssdkd_jax.Teacher.from_function(lambda v, x: x.mean(), 0, **SMALL), r"answers \(\) to 4 images"),
        (lambda t: ssdkd_jax.Teacher.from_function(lambda v, x: v * x[:, 0, :, 0], np.nan, **SMALL), "NaN or infin"),
        (
            lambda t: ssdkd_jax.Teacher.from_function(flat, np.ones((64, 3)), image_shape=(8, 8)),
            r"image_shape = \(8, 8\) is not \(height, width, channels\)",
        ),
        (
            lambda t: ssdkd_jax.Teacher.from_function(
                flat, np.ones((64, 3)), image_shape=(8, 8, 1), mean=[120.0], std=[60.0]
            ),
            "divide them by 255",
        ),
        (lambda t: ssdkd_jax.compare(t, t, np.zeros((0, 8, 8, 1))), "There is no image to compare on"),
        (lambda t: ssdkd_jax.read_images("nowhere", (8, 8, 1)), "There is no folder 'nowhere'"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_one_sentence(teacher, call, sentence):
    with pytest.raises(ssdkd_jax.InputError, match=sentence) as caught:
        call(teacher)
    assert str(caught.value).count("\n") == 0 or "is missing" in sentence


def test_too_few_images_for_a_start_and_an_unknown_start_are_refused(teacher):
    with pytest.raises(errors.InputError, match="start_procedural = 2 are too few images to start from the teacher"):
        distil(teacher, config=small(student__start="teacher", student__start_images=3, student__start_procedural=2))
    with pytest.raises(errors.InputError, match=r"start = 'techer' .* did you mean 'teacher'"):
        distil(teacher, config=small(student__start="techer"))
