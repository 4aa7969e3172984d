"""The scripts of the protocol, on a tiny pair from start to end; and what the committed pairs cost."""

import json
import os
import subprocess
import sys

import protocol
import pytest
import sets
import test_protocol
import test_scripts

import ssdkd_jax
from ssdkd_jax import data

torch = pytest.importorskip("torch")
networks = pytest.importorskip("torch_networks")
TINY = """
seconds = 0.0
[[pair]]
name = "tiny"
role = "tuning"
data = "digits"
network = { name = "Cnn", widths = [6, 8], hidden = 16, norm = "batch" }
recipe = { seen = 16_000, lr = 0.01, optimiser = "adam", mean = 0.5, std = 0.25 }
student = "0.5"
[[pair]]
name = "large"
role = "held"
data = "digits"
network = { name = "LeNet", width = 2 }
recipe = { seen = 1_000, lr = 0.01 }
student = "wrn10_1"
"""
PROGRAM = """
from absl import app, flags
import robustness, robustness_teachers

def main(arguments):
    for part in (robustness_teachers.main, robustness_teachers.main, robustness.main, robustness.main):
        part(arguments)
        print("--")
    flags.FLAGS.role = "held"
    robustness.main(arguments)

app.run(main)
"""
SMALL = ["digits_lenet", "digits_colour_strided"]  # soon looked at


def module(pair):
    """The network of a pair."""
    options, (shape, classes, _) = dict(pair.network), sets.known(pair.data)
    return networks.NETWORKS[options.pop("name")](shape[2], classes, shape[0], **options).eval()


def test_six_of_the_held_back_have_no_batch_norm_or_are_in_colour():
    plain = {
        pair.name for pair in test_protocol.HELD if not any("running_var" in key for key in module(pair).state_dict())
    }
    colour = {pair.name for pair in test_protocol.HELD if sets.known(pair.data).shape[-1] == 3}
    assert len(plain) >= 4 and len(plain | colour) >= 6 and len(plain & colour) >= 2
    assert len(test_protocol.HELD) - len(plain | colour) >= 3


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SMALL else pytest.mark.slow) for name in test_protocol.PAIRS]
)
def test_a_student_costs_at_most_half_of_its_teacher(name):
    pair = test_protocol.PAIRS[name]
    shape, network = sets.known(pair.data).shape, module(pair)
    teacher = ssdkd_jax.Teacher.from_torch_module(network, image_shape=shape, mean=0.5, std=0.25)
    found = protocol.costs(teacher, pair.student)
    protocol.check_costs(name, found)
    assert found["teacher_parameters"] == sum(weights.numel() for weights in network.parameters())


@pytest.fixture(scope="module")
def done(cache, tmp_path_factory):
    """The folder of the tiny protocol after both scripts, what they said, each started twice, and how it all ended."""
    folder = tmp_path_factory.mktemp("robustness")
    (folder / "tiny.toml").write_text(TINY)
    environment = test_scripts.environment(cache)
    environment["PYTHONPATH"] += f"{os.pathsep}{test_scripts.ROOT / 'experiments'}"
    environment |= {"SSDKD_JAX_ENVIRONMENT": "0", "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    arguments = f"--protocol={folder / 'tiny.toml'}", f"--teachers={folder / 'teachers'}", f"--workdir={folder}"
    command = [sys.executable, "-c", PROGRAM, *arguments, "--seeds=3"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    parts = [part.strip() for part in ended.stdout.split("--\n")]
    assert len(parts) == 5, ended.stderr
    return folder, parts, ended


def test_teachers_are_trained_once(done):
    folder, (first, again, *_), _ = done
    assert first.endswith(again) and len(first.splitlines()) == len(again.splitlines()) + 2
    told = json.loads((folder / "teachers" / "tiny.json").read_text())
    assert told["accuracy"] > 0.7 and told["norms"] == 4 and told["recipe"]["seen"] == 16_000
    assert again.splitlines()[2].startswith("| tiny | Cnn | digits 16x16x1, 10 classes | ")
    assert (folder / "teachers" / "teachers.md").read_text().strip() == again


def test_a_teacher_that_is_loaded_is_the_one_that_was_trained(done):
    folder, digits = done[0], data.load("digits")
    told, run = (json.loads((folder / name).read_text()) for name in ("teachers/tiny.json", "runs/tiny-ours-3.json"))
    assert run["teacher_accuracy"] == pytest.approx(told["accuracy"], abs=0.0041)
    network = module(protocol.read(folder / "tiny.toml").pairs["tiny"])
    network.load_state_dict(torch.load(folder / "teachers" / "tiny.pth", weights_only=True))
    with torch.no_grad():
        images = torch.tensor(digits.test_images.transpose(0, 3, 1, 2) / 255, dtype=torch.float32)
        answers = network((images - 0.5) / 0.25).argmax(1).numpy()
    assert (answers == digits.test_labels).mean() == pytest.approx(run["teacher_accuracy"], abs=0.0021)


def test_students_are_made_once_within_their_seconds_and_judged(done):
    folder, (*_, first, again, _), _ = done
    lines = first.splitlines()
    header, _, row, median, _ = (line for line in lines if line.startswith("|"))
    assert again.splitlines() == lines[lines.index(header) :]  # the table, and what it says of the runs
    assert "runs say that something is wrong." in lines[-1] or lines[-1].startswith("- tiny, ours, seed 3: ")
    assert any(line.startswith("tiny, ours, seed 3: teacher ") for line in lines) and "ended by the clock" in first
    run = json.loads((folder / "runs" / "tiny-ours-3.json").read_text())
    lost = 100 * (run["teacher_accuracy"] - run["student_accuracy"])
    assert row.startswith("| tiny -> 0.5 | ") and f"| {lost:.2f} |" in row and f"| {lost:.2f} |" in median
    assert (run["seed"], run["variant"], run["finished"], run["failed"]) == (3, "ours", False, None)
    assert 0 < run["student_accuracy"] < 1 and run["agreement"] < 1 and len(run["commit"]) >= 12
    assert 0.2 < run["student_parameters"] / run["teacher_parameters"] <= 0.5
    assert 0.2 < run["student_flops"] / run["teacher_flops"] <= 0.5
    assert run["versions"].keys() >= {"jax", "python"} and "--seeds=3" in run["command"]


def test_a_student_that_is_too_large_ends_the_script(done):
    *_, ended = done
    assert ended.returncode != 0
    assert "InputError: The student of large has" in ended.stderr and "at most 0.5 count" in ended.stderr
