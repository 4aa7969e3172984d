"""The console command, as a user types it in a folder of their own, with a teacher and no data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import quick
import tiny

from ssdkd_jax import build, models
from ssdkd_jax.interop import saved

ROOT = Path(__file__).parents[1]
INPUTS = build.Inputs((16, 16, 1), 3, (0.4,), (0.3,))
QUICK = {
    "synthesis.batch": 16,
    "synthesis.inner_steps": 2,
    "synthesis.width": 4,
    "student.batch": 16,
    "student.regression": 0.0,
    "buffer.size": 32,
    "schedule.rounds": 3,
    "schedule.warmup": 1,
    "schedule.distill_steps": 2,
}
FIELDS = [f"--config.{name}={value}" for name, value in QUICK.items()]
BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "ssdkd_jax.data" or name.split(".")[0] in ("tensorflow_datasets", "array_record", "sklearn"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
from ssdkd_jax import cli

sys.argv[0] = "ssdkd"
cli.main()
"""


def ssdkd(folder, *arguments, blocked=False):
    """(exit code, stdout, stderr) of the command in a folder; `blocked`: nothing of data can be imported."""
    program = ["-c", BLOCKED] if blocked else ["-m", "ssdkd_jax"]
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    ended = subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths, "XLA_FLAGS": quick.FLAGS, "SSDKD_JAX_ENVIRONMENT": "0"},
        capture_output=True,
        text=True,
    )
    return ended.returncode, ended.stdout, ended.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a teacher, and nothing else."""
    folder = tmp_path_factory.mktemp("mine")
    network = build.network("wrn10_1", INPUTS, axis=None)
    saved.save(folder / "teacher", network.init(jax.random.key(0)), saved.note("wrn10_1", INPUTS))
    return folder


@pytest.fixture(scope="module")
def distilled(place):
    ended = ssdkd(place, "distill", "--teacher=teacher", "--student=wrn10_1", "--workdir=run", *FIELDS, blocked=True)
    assert ended[0] == 0, ended[2]
    return ended


def test_a_teacher_and_a_line_give_a_student_without_data(place, distilled):
    _code, out, _err = distilled
    assert "student_agreement 0." in out and "see run/summary.json" in out
    summary = json.loads((place / "run" / "summary.json").read_text())
    assert summary["score"] == "agreement" and summary["config"]["data"]["name"] == "none"
    assert summary["config"]["teacher"]["model"] == "wrn10_1" and summary["config"]["synthesis"]["width"] == 4
    assert summary["fresh_kl"] >= 0 and summary["teacher_agreement"] is None
    assert {"synthetic.png", "accuracy.png", "histograms.png"} <= {path.name for path in (place / "run").iterdir()}
    student = saved.load(place / "run" / "student")
    assert student(np.zeros((2, 16, 16, 1), np.uint8)).shape == (2, 3)


def test_the_same_line_goes_on_and_another_seed_is_refused(place, distilled):
    line = ("distill", "--teacher", "teacher", "--student", "wrn10_1", "--workdir=run", *FIELDS)
    code, _out, err = ssdkd(place, *line, "--config.seed=3")
    assert code == 1 and "seed = 0 there and 3 here" in err and "Traceback" not in err
    assert ssdkd(place, *line)[0] == 0


def test_data_that_are_not_there_are_done_without(place):
    config = place / "mine.py"
    config.write_text(
        "from ssdkd_jax import config\n\n\ndef get_config():\n    c = config.default()\n"
        "    c.data.update(name='fashion_mnist', folder='/nowhere')\n    c.views.count = 0\n    return c\n"
    )
    flags = [f"--config={config}", "--config.teacher.model=wrn10_1", "--config.student.model=tiny:Linear", *FIELDS]
    flags += ["--config.student.attention=0.0", "--config.synthesis.latent=8"]
    code, out, err = ssdkd(place, "distill", *flags, "--workdir=other")
    assert code == 1 and "No folder /nowhere" in err  # a teacher is to be trained on them
    code, out, err = ssdkd(place, "distill", *flags, "--config.teacher.checkpoint=teacher", "--workdir=other")
    assert code == 0, err
    assert "No folder /nowhere" in err and "the run goes on without data" in err and "agreement" in out


def test_synthetic_images_are_judged_as_a_folder_of_images(place, distilled):
    code, out, err = ssdkd(
        place, "synthesize", "--teacher=teacher", "--images=20", "--output=images", *FIELDS, blocked=True
    )
    assert code == 0 and "20 images 16x16x1" in out, err
    found = ssdkd(place, "evaluate", "--checkpoint=run/student", "--teacher=teacher", "--images=images", blocked=True)
    known = json.loads(found[1])
    assert known["images"] == 20 and 0 <= known["agreement"] <= 1 and known["teacher_accuracy"] == 1
    code, _, err = ssdkd(place, "synthesize", "--teacher=teacher", "--images=20", "--output=images")
    assert code == 1 and "'images' is not an empty folder" in err


def test_a_student_goes_elsewhere_and_comes_back(place, distilled):
    code, out, err = ssdkd(place, "export", "--checkpoint=run/student", "--output=student.safetensors")
    assert code == 0 and "wrn10_1 written to student.safetensors; it takes (images - mean) / std" in out, err
    words = ["--checkpoint=student.safetensors", "--mean=0.4", "--std=0.3", "--image_size=16", "--output=back"]
    code, out, err = ssdkd(place, "import", *words)
    assert code == 0 and out.startswith("wrn10_1 (recognised by its keys), 3 classes"), err
    one, other = saved.load(place / "run" / "student"), saved.load(place / "back")
    assert tiny.tree_equal(one.variables, other.variables)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), ""),
        (("distil",), "'distil' is no command of ssdkd; did you mean 'distill'?"),
        (("distill", "--workdir=new"), "No teacher is named; give --teacher=FOLDER"),
        (("distill", "--teacher=nowhere", "--workdir=new"), "No saved model in 'nowhere'"),
        (("distill", "--teacher=teacher", "--student=wrn10", "--workdir=new"), "Unknown model 'wrn10'"),
        (("distill", "--teacher=teacher", "--config.student.lr=-1", "--workdir=new"), "student.lr = -1"),
        (("synthesize", "--teacher=teacher", "--images=0", "--output=new"), "n = 0 is not a whole number"),
        (("evaluate", "--checkpoint=teacher"), "What to evaluate on is not clear"),
        (("evaluate", "--checkpoint=teacher", "--teacher=teacher", "--images=nowhere"), "There is no folder 'nowhere'"),
        (("evaluate", "--checkpoint=teacher", "--teacher=teacher", "--images=teacher"), "'teacher' holds no image"),
        (("export", "--checkpoint=teacher", "--output=student.onnx"), "'student.onnx' ends in none of .stablehlo"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(place, words, sentence):
    code, out, err = ssdkd(place, *words)
    assert "Traceback" not in err and not (place / "new").exists()
    if not words:
        assert code == 0 and all(name in out for name in ("distill", "synthesize", "import", "export", "evaluate"))
        return
    assert code == 1 and [sentence in line for line in err.splitlines() if line.startswith("Error: ")] == [True], err


def test_help_shows_the_flags_of_the_command(place):
    for word, flag in (("distill", "--student"), ("evaluate", "--images"), ("import", "--mean")):
        _code, out, _ = ssdkd(place, word, "--help")
        assert f"ssdkd {word} " in out and flag in out


def test_sizes_are_counted(place):
    teacher = saved.load(place / "teacher")
    dense = 64 * 3
    assert teacher.parameters > dense and models.flops(teacher.network, teacher.variables, (16, 16, 1)) > 2 * dense
