"""The scripts as a user runs them, each in a process of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from ssdkd_jax import data, models
from ssdkd_jax.engine import checkpoint
from ssdkd_jax.interop import saved

ROOT = Path(__file__).parents[1]
TINY = {
    "teacher.model": "tiny:Tiny",
    "teacher.epochs": 2,
    "teacher.batch": 64,
    "student.model": "tiny:Tiny",
    "student.batch": 16,
    "student.update_bn": 2,
    "synthesis.batch": 20,
    "synthesis.inner_steps": 2,
    "synthesis.latent": 16,
    "synthesis.width": 4,
    "buffer.size": 40,
    "views.count": 2,
    "schedule.rounds": 3,
    "schedule.warmup": 1,
    "schedule.distill_steps": 3,
    "schedule.evaluate_every": 1,
    "schedule.checkpoint_seconds": 0.0,
}


def overrides(**fields):
    settings = TINY | {name.replace("__", "."): value for name, value in fields.items()}
    return [f"--config.{name}={value}" for name, value in settings.items()]


def environment(cache):
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    return os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "XLA_FLAGS": quick.FLAGS, "PYTHONPATH": path}


def start(cache, script, *arguments, config=ROOT / "configs" / "digits.py"):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "experiments" / script), *([f"--config={config}"] if config else []), *arguments],
        env=environment(cache),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """(exit code, stdout, stderr)."""
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def distilled(cache, tmp_path_factory):
    """The workdir of a finished run of distill.py, its last line, and what it wrote to stderr."""
    workdir = tmp_path_factory.mktemp("run")
    code, out, err = finish(start(cache, "distill.py", f"--workdir={workdir}", *overrides()))
    assert code == 0, err
    return workdir, out.strip().splitlines()[-1], err


@pytest.fixture(scope="module")
def summary(distilled):
    return json.loads((distilled[0] / "summary.json").read_text())


def test_summary_has_the_promised_numbers(summary):
    for name in ("teacher_accuracy", "student_accuracy", "real_subset_accuracy"):
        assert 0.0 <= summary[name] <= 1.0
    assert summary["synthetic_images"] == 3 * 20
    assert summary["buffer_size"] == sum(summary["class_counts"]) == 40
    assert summary["distillation_steps"] == 2 * 3
    assert summary["skipped_steps"] == {"inversion_skipped": 0, "distillation_skipped": 0}
    assert summary["peak_memory_bytes"] > 50e6
    assert {"teacher", "compilation", "synthesis", "distillation", "evaluation", "total"} <= summary["seconds"].keys()
    assert {"python", "jax", "flax", "numpy"} <= summary["versions"].keys()
    assert summary["seed"] == summary["config"]["seed"] == 0
    assert summary["config"]["buffer"]["size"] == 40
    assert [point["round"] for point in summary["curve"]] == [2, 3]


def test_three_pictures_are_written(distilled):
    for name in ("synthetic.png", "accuracy.png", "histograms.png"):
        assert (distilled[0] / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_progress_and_the_last_line_say_what_happened(distilled, summary):
    workdir, line, err = distilled
    assert f"student_accuracy {summary['student_accuracy']:.4f}" in line
    assert str(workdir) in line
    assert "distillation" in err
    assert "Traceback" not in err
    assert list((workdir / "tensorboard").glob("events*"))


def test_student_loads_in_three_lines_and_has_the_accuracy_of_the_summary(distilled, summary):
    student, digits = saved.load(distilled[0] / "student", "tiny:Tiny"), data.load("digits")
    predicted = np.asarray(student(jnp.asarray(digits.test_images / np.float32(255)))).argmax(-1)
    assert (predicted == digits.test_labels).mean() == pytest.approx(summary["student_accuracy"], abs=0.0021)


def test_evaluate_and_wrong_fields(distilled, summary, cache, tmp_path):
    typo = tmp_path / "typo.py"
    typo.write_text(
        "from ssdkd_jax import config\n\n\ndef get_config():\n"
        "    c = config.default()\n    c.student.update(temprature=1.0)\n    return c\n"
    )
    evaluate = start(cache, "evaluate.py", f"--checkpoint={distilled[0] / 'student'}", "--model=tiny:Tiny")
    flag = start(cache, "distill.py", f"--workdir={tmp_path}", "--config.student.temprature=3")
    file = start(cache, "train_teacher.py", f"--workdir={tmp_path}", config=typo)
    code, out, err = finish(evaluate)
    assert code == 0, err
    answer = json.loads(out.strip().splitlines()[-1])
    assert answer["accuracy"] == pytest.approx(summary["student_accuracy"], abs=1e-6)
    assert answer["images"] == 500
    for process in (flag, file):
        code, _, err = finish(process)
        assert code == 1
        assert "Traceback" not in err
        assert len(err.strip().splitlines()) == 1
        assert "temprature" in err
        assert re.search(r"did you mean '(student\.)?temperature'\?", err)


def test_fewer_rounds_in_a_used_folder_are_one_sentence_and_a_faulty_model_keeps_its_traceback(
    distilled, cache, tmp_path
):
    files = [path for path in distilled[0].rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    fewer = start(cache, "distill.py", f"--workdir={distilled[0]}", *overrides(schedule__rounds=2))
    faulty = start(cache, "distill.py", f"--workdir={tmp_path}", *overrides(student__model="tiny:Faulty"))
    code, _, err = finish(fewer)
    assert code == 1
    assert (
        err.strip().splitlines()[-1].startswith(f"Error: '{distilled[0]}' holds another run (schedule.rounds = 3 there")
    )
    assert "Traceback" not in err
    assert {path: path.read_bytes() for path in distilled[0].rglob("*") if path.is_file()} == before
    code, _, err = finish(faulty)
    assert code == 1
    assert "Traceback" in err
    assert "ValueError: a fault of the user's own model" in err
    assert not (tmp_path / "teacher_training").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"buffer__size": 10}, "buffer.size = 10 is smaller than a batch"),
        ({"data__name": "fashion_mnist", "data__folder": "/none"}, "No folder /none"),
        ({"teacher__checkpoint": "/none"}, "No saved model in '/none'"),
        ({"sampler__name": "greedy"}, "sampler.name = 'greedy' is not one of"),
        ({"student__lr": 1e30, "schedule__max_skipped": 2}, "the last good checkpoint is kept"),
        ({"teacher__lr": 1e30, "schedule__max_skipped": 2}, "lower the learning rate"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(tmp_path, cache, fields, sentence):
    code, _, err = finish(start(cache, "distill.py", f"--workdir={tmp_path}", *overrides(**fields)))
    assert code == 1
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert sentence in last


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "image_shape", "sentence"),
    [(7, (16, 16, 1), "knows 7 classes, but the data have 10"), (10, (8, 8, 1), "takes images of shape [8, 8, 1]")],
)
@pytest.mark.parametrize("script", ["distill.py", "evaluate.py"])
def test_a_model_of_other_data_is_one_sentence(tmp_path, cache, script, classes, image_shape, sentence):
    network = models.bind(models.by_name("wrn10_1", classes), image_shape)
    note = {"model": "wrn10_1", "classes": classes, "image_shape": image_shape, "mean": [0.3], "std": [0.4]}
    saved.save(tmp_path / "model", network.init(jax.random.key(0)), note)
    arguments = {
        "distill.py": (f"--workdir={tmp_path}", f"--config.teacher.checkpoint={tmp_path / 'model'}"),
        "evaluate.py": (f"--checkpoint={tmp_path / 'model'}",),
    }[script]
    extra = ("--config.teacher.model=wrn10_1",)
    code, _, err = finish(start(cache, script, *arguments, *extra))
    assert code == 1
    assert err.strip().splitlines()[-1].startswith("Error: The model in ")
    assert sentence in err


@pytest.mark.slow
def test_an_unknown_pair_is_one_sentence(tmp_path, cache):
    code, _, err = finish(start(cache, "distill.py", f"--workdir={tmp_path}", config="configs/cifar10.py:vgg_resnet18"))
    assert code == 1
    assert err.startswith("Error: Unknown pair 'vgg_resnet18'; did you mean 'vgg11_resnet18'?")
    assert len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_train_teacher_leaves_what_distill_finds(tmp_path, cache):
    code, out, err = finish(start(cache, "train_teacher.py", f"--workdir={tmp_path}", *overrides()))
    assert code == 0, err
    assert "tiny:Tiny" in out
    before = checkpoint.restore(tmp_path / "teacher", dict(saved.load(tmp_path / "teacher", "tiny:Tiny").variables))[1]
    code, _, err = finish(start(cache, "distill.py", f"--workdir={tmp_path}", *overrides()))
    assert code == 0, err
    assert "teacher" not in json.loads((tmp_path / "summary.json").read_text())["seconds"]
    after = saved.load(tmp_path / "teacher", "tiny:Tiny").variables
    np.testing.assert_array_equal(before["params"]["Dense_0"]["kernel"], after["params"]["Dense_0"]["kernel"])


@pytest.mark.slow
def test_scenes_leave_masks_and_a_table_of_iou(tmp_path, cache):
    fields = dict(teacher__model="tiny:Pixels", student__model="tiny:Pixels", teacher__epochs=1, yardstick_steps=2)
    config = ROOT / "configs" / "scenes.py"
    code, out, err = finish(start(cache, "distill.py", f"--workdir={tmp_path}", *overrides(**fields), config=config))
    assert code == 0, err
    summary = json.loads((tmp_path / "summary.json").read_text())
    for name in ("teacher_miou", "student_miou", "real_subset_miou"):
        assert 0 < summary[name] < 1
    assert f"student_miou {summary['student_miou']:.4f}" in out.strip().splitlines()[-1]
    for name in ("synthetic.png", "accuracy.png", "histograms.png", "masks.png", "synthetic_masks.png"):
        assert (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    table = [line.split(",") for line in (tmp_path / "iou.csv").read_text().splitlines()]
    assert [row[0] for row in table] == ["class", "ground", *map(str, range(10)), "mean"]
    assert float(table[-1][2]) == pytest.approx(summary["student_miou"], abs=1e-4)
    assert summary["curve"][-1]["miou"] == summary["student_miou"]
