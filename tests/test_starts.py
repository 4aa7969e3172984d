"""The scripts that train teachers and judge starts, on digits; and the networks that they bring."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
import test_scripts

from ssdkd_jax import data, models
from ssdkd_jax.interop import saved

PROGRAM = """
from absl import app
import teachers, starts

teachers.TEACHERS = {"tiny": teachers.Kind("digits", "networks:cnn_half", 14_000, lr=0.1)}
starts.STUDENTS = {"networks:cnn_half": ("networks:cnn_half",)}
names = "teacher", "student", "source", "seed", "accuracy", "teacher_accuracy"
cells = (
    *(("a", "networks:x", "real_8", 0, 0.5, 0.9), ("a", "networks:x", "real_8", 1, 0.7, 0.9)),
    *(("a", "y", "drawn_8", 0, 0.25, 0.9), ("b", "y", "real_8", 0, 0.125, 0.8)),
)

def main(arguments):
    for part in (teachers.main, starts.main, teachers.main, starts.main):
        part(arguments)
        print("--")
    print(starts.table([dict(zip(names, cell)) for cell in cells]))

app.run(main)
"""


@pytest.fixture(scope="module")
def done(cache, tmp_path_factory):
    """The workdir of both scripts, and what they say, each of them started twice; then a table of other cells."""
    workdir, environment = tmp_path_factory.mktemp("teachers"), test_scripts.environment(cache)
    environment["PYTHONPATH"] += f"{os.pathsep}{test_scripts.ROOT / 'experiments'}"
    environment |= {"SSDKD_JAX_ENVIRONMENT": "0", "JAX_PLATFORMS": "cpu"}
    arguments = (f"--workdir={workdir}", "--only=tiny", "--seeds=0,1", "--sources=real_300,procedural_64")
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], env=environment, capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 0, ended.stderr
    return workdir, [part.strip() for part in ended.stdout.split("--\n")]


def test_a_teacher_is_trained_once_and_saved_as_it_scores(done):
    workdir, (first, _, again, *_) = done
    told, digits = json.loads((workdir / "tiny.json").read_text()), data.load("digits")
    found = saved.load(workdir / "tiny" / "teacher", "networks:cnn_half")
    predicted = np.asarray(found(jnp.asarray(digits.test_images))).argmax(-1)
    assert (predicted == digits.test_labels).mean() == pytest.approx(told["accuracy"], abs=0.0021)
    assert told["accuracy"] > 0.7
    assert (told["seen"], told["epochs"]) == (14_000, 11)
    assert told["seconds"] > 0 and "--only=tiny" in told["command"] and "jax" in told["versions"]
    assert again == first == f"tiny: {100 * told['accuracy']:.2f} % of the test images, {told['seconds']:.0f} s"


def test_cells_are_filled_once_and_a_student_of_the_teachers_own_size_is_almost_it(done):
    workdir, (_, first, _, again, _) = done
    header, _, row = again.splitlines()
    assert header == "| teacher -> student | teacher % | real, 300 % | procedural, 64 % |"
    assert row.startswith("| tiny -> cnn_half | ") and row.count(" ± ") == 2
    assert first.endswith(again) and len(first.splitlines()) == 4 + 3
    cell = json.loads((workdir / "starts" / "tiny-cnn_half-real_300-1.json").read_text())
    assert cell["accuracy"] > cell["teacher_accuracy"] - 0.1
    assert (workdir / "starts.md").read_text().strip() == again


def test_the_table_has_a_row_a_pair_and_a_column_a_source(done):
    assert done[1][-1].splitlines() == [
        "| teacher -> student | teacher % | real, 8 % | drawn, 8 % |",
        "| --- | ---: | ---: | ---: |",
        "| a -> x | 90.00 | 60.00 ± 14.14 |  |",
        "| a -> y | 90.00 |  | 25.00 |",
        "| b -> y | 80.00 | 12.50 |  |",
    ]


def shapes(name, shape=(28, 28, 1)):
    """The shapes of a network's variables."""
    return jax.eval_shape(models.bind(models.by_name(name, 10), shape).init, jax.random.key(0))


@pytest.mark.parametrize(("narrow", "zoo", "factor"), [("resnet18_narrow", "resnet18", 4), ("vgg8_half", "vgg8", 2)])
def test_a_narrow_network_is_the_zoos_with_fewer_channels(narrow, zoo, factor):
    few, many = (jax.tree.leaves_with_path(shapes(name)) for name in (f"networks:{narrow}", zoo))
    for (path, small), (also, large) in zip(few, many, strict=True):
        assert path == also
        ends = {1, 10}  # channels of the images, and classes
        assert small.shape == tuple(n if n in ends or n == 3 else n // factor for n in large.shape)


def test_what_is_plain_has_no_batch_norm():
    assert shapes("networks:vgg8_plain").keys() == shapes("networks:cnn").keys() == {"params"}
    plain, normed = (models.parameter_count(shapes(name)) for name in ("networks:vgg8_plain", "vgg8"))
    assert normed - plain == 2 * (64 + 128 + 256 + 512 + 512)


def test_a_cnn_has_the_parameters_of_its_layers():
    layers = 9 * 32 + 32, 9 * 32 * 64 + 64, 7 * 7 * 64 * 128 + 128, 128 * 10 + 10
    assert models.parameter_count(shapes("networks:cnn")) == sum(layers)
    assert networks.cnn(classes=3).classes == 3
