"""The library as its users call it: one call to a student, no data."""

import ast
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
import quick
import tiny
from calls import SMALL, distil, flat, small
from flax import nnx

import ssdkd_jax
from ssdkd_jax import build, models
from ssdkd_jax.engine import loop
from ssdkd_jax.interop import saved

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def whole(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_devices(patch, 1)
        patch.chdir(folder)
        found = distil(teacher)
    assert list(folder.iterdir()) == []  # without a workdir, nothing is written
    return found


def test_a_run_tells_how_it_goes_without_data(whole, teacher):
    assert [point["round"] for point in whole.history] == [2, 3, 4]
    for point in whole.history:
        assert 0 <= point["agreement"] <= 1 and 0 <= point["fresh_kl"] < 50 and 0 <= point["fresh_balance"] <= 1.000001
        assert 1 / 3 < point["fresh_confidence"] <= 1 and point["fresh_bn"] > 0
    assert whole.summary["score"] == "agreement" and whole.summary["teacher_agreement"] is None
    assert whole.indicators["fresh_bn_first"] > 0 and 0 < whole.indicators["taught_softness"] <= 1
    assert whole.history[-1]["snapshot"] == whole.summary["snapshot"] and whole.health == whole.summary["health"]
    assert len(whole.synthetic) == tiny.SLOTS and whole.synthetic.images.dtype == np.uint8
    np.testing.assert_allclose(whole.synthetic.logits, teacher(whole.synthetic.images), atol=1e-5)
    figures = whole.plot_images(), whole.plot_curves(), whole.plot_histograms()
    assert all(len(figure.axes) for figure in figures)


def test_two_calls_in_one_process_do_not_disturb_each_other(whole, teacher):
    again, other = distil(teacher), distil(teacher, seed=5)
    assert tiny.tree_equal(whole.student.variables, again.student.variables)
    assert not tiny.tree_equal(whole.student.variables, other.student.variables)


def interrupting(at):
    """Ctrl-C in the round `at`."""

    def on_round(rounds, metrics):
        if rounds == at:
            raise KeyboardInterrupt

    return on_round


def test_an_interrupted_run_returns_what_there_is_and_goes_on_to_the_same_bits(whole, teacher, tmp_path):
    options = {"config": small(schedule__checkpoint_seconds=0.0), "workdir": tmp_path / "run"}
    stopped = distil(teacher, on_round=interrupting(2), **options)
    assert not stopped.finished and len(stopped.history) == 1
    assert stopped.student(np.zeros((2, *tiny.SHAPE), np.uint8)).shape == (2, 3)
    assert not (tmp_path / "run" / "summary.json").exists()
    ended = distil(teacher, **options)
    assert ended.finished and tiny.tree_equal(ended.student.variables, whole.student.variables)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["agreement"] == ended.indicators["agreement"]
    loaded = saved.load(tmp_path / "run" / "student", "tiny:Tiny")
    assert tiny.tree_equal(loaded.variables, ended.student.variables)
    assert distil(teacher, **options).finished  # nothing is left to do


def test_a_student_that_starts_from_its_teacher_is_the_same_after_an_interruption(teacher, tmp_path, caplog):
    caplog.set_level("INFO")
    config = small(schedule__checkpoint_seconds=0.0, student__start="teacher", student__start_procedural=40)
    whole = distil(teacher, config=config)
    assert caplog.text.count("starts from its teacher") == 1
    assert not distil(teacher, config=config, workdir=tmp_path, on_round=interrupting(1)).finished
    ended = distil(teacher, config=config, workdir=tmp_path)
    assert tiny.tree_equal(ended.student.variables, whole.student.variables)


@pytest.fixture
def listening():
    """SIGINT raises KeyboardInterrupt, also in a process that a shell started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
def test_ctrl_c_itself_ends_a_run_early_and_a_second_one_raises(teacher):
    def press(*_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)

    assert not distil(teacher, on_round=press).finished
    stopped = []
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssdkd_jax.run.pipeline.conclude", lambda *_: stopped.append(1) or press())
        distil(teacher, on_round=press)
    assert stopped


class Half(nn.Module):
    """A network whose layers have the same shapes whatever it is set to."""

    act: str = "tanh"

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(3)(getattr(nn, self.act)(nn.Dense(5)(images.reshape(images.shape[0], -1))))


def test_a_student_or_a_teacher_of_the_same_shapes_is_another_one(teacher, tmp_path):
    stopped = ssdkd_jax.distill(teacher, Half(), small(), workdir=tmp_path / "run", on_round=interrupting(2))
    assert not stopped.finished
    known = {name: stopped.summary[name] for name in ("distillation_steps", "synthetic_images")}
    assert known == {"distillation_steps": 2, "synthetic_images": 32}  # of two rounds, not of four
    with pytest.raises(ssdkd_jax.InputError, match=r"student\.network = "):
        ssdkd_jax.distill(teacher, Half("relu"), small(), workdir=tmp_path / "run")
    other = ssdkd_jax.Teacher.from_linen(tiny.Tiny(3), teacher.variables, **{**SMALL, "mean": 0.5})
    with pytest.raises(ssdkd_jax.InputError, match="teacher = "):
        ssdkd_jax.distill(other, Half(), small(), workdir=tmp_path / "run")
    images = np.random.default_rng(0).integers(0, 256, (20, *tiny.SHAPE), np.uint8)
    judged = {"evaluate": (images, np.argmax(teacher(images), -1)), "workdir": tmp_path / "run"}
    ended = ssdkd_jax.distill(teacher, Half(), small(), **judged)  # begun without images, ended with some
    assert ended.summary["student_accuracy"] == ended.history[-1]["accuracy"]
    ended.student.save(tmp_path / "half")
    with pytest.raises(ssdkd_jax.InputError, match="answers otherwise than the one that was saved"):
        ssdkd_jax.load(tmp_path / "half", Half("relu"))
    assert tiny.tree_equal(ssdkd_jax.load(tmp_path / "half", Half()).variables, ended.student.variables)


def test_it_runs_in_a_thread_and_leaves_signals_alone(teacher):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    found = []
    thread = threading.Thread(target=lambda: found.append(distil(teacher, rounds=2)))
    thread.start()
    thread.join()
    assert found[0].finished
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_an_nnx_student_learns(teacher):
    class Student(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(1, 6, (3, 3), strides=(2, 2), rngs=rngs)
            self.norm = nnx.BatchNorm(6, momentum=0.9, rngs=rngs)
            self.head = nnx.Linear(96, 3, rngs=rngs)

        def __call__(self, images):
            x = nnx.tanh(self.norm(self.conv(images)))
            return self.head(x.reshape(x.shape[0], -1))

    mine = Student(nnx.Rngs(0))
    before = jax.tree.map(np.array, nnx.state(mine))
    found = ssdkd_jax.distill(teacher, mine, small())
    assert found.finished and not np.allclose(
        found.student.variables["params"]["head"]["kernel"], mine.head.kernel[...]
    )
    assert tiny.tree_equal(before, jax.tree.map(np.array, nnx.state(mine)))


def test_segmentation_through_the_api():
    network = models.bind(tiny.Pixels(tiny.CLASSES), tiny.SHAPE)
    teacher = ssdkd_jax.Teacher.from_linen(tiny.Pixels(tiny.CLASSES), network.init(jax.random.key(1)), **SMALL)
    config = small()
    images = np.random.default_rng(0).integers(0, 256, (6, *tiny.SHAPE), np.uint8)
    labels = np.asarray(teacher(images)).argmax(-1)
    found = ssdkd_jax.distill(
        teacher, tiny.Pixels(tiny.CLASSES), config, task="segmentation", evaluate=(images, labels), rounds=2
    )
    assert found.summary["score"] == "miou" and found.summary["teacher_miou"] == 1
    assert found.student(np.zeros((2, 12, 8, 1), np.uint8)).shape == (2, 12, 8, 3)
    assert found.synthetic.logits.shape == (len(found.synthetic), 8, 8, 3)


def test_synthetic_images_of_a_teacher_alone(teacher, tmp_path):
    made = ssdkd_jax.synthesize(teacher, 37, small())
    assert made.images.shape == (37, *tiny.SHAPE) and made.logits.shape == (37, 3)
    np.testing.assert_array_equal(made.labels, made.logits.argmax(-1))
    np.testing.assert_allclose(made.confidence, tiny.softmax(made.logits).max(-1), atol=1e-3)
    first = ssdkd_jax.synthesize(teacher, tiny.BATCH, small())
    oldest = made.images[len(made) // tiny.BATCH * tiny.BATCH :]  # the newest come first, and the last are cut off
    np.testing.assert_array_equal(oldest, first.images[: len(oldest)])
    made.save(tmp_path / "set" / "images.npz")
    with np.load(tmp_path / "set" / "images.npz") as stored:
        np.testing.assert_array_equal(stored["images"], made.images)
        np.testing.assert_array_equal(stored["logits"], made.logits)
    made.save(tmp_path / "png")
    images, labels = ssdkd_jax.read_images(tmp_path / "png", tiny.SHAPE)
    order = np.argsort(made.labels, kind="stable")
    np.testing.assert_array_equal(images, made.images[order])
    np.testing.assert_array_equal(labels, made.labels[order])
    with pytest.raises(ssdkd_jax.InputError, match="is not an empty folder; name a new one"):
        made.save(tmp_path / "png")


def test_a_loop_of_ones_own_with_plain_jit(teacher):
    config = small()
    job = build.job(config, teacher.inputs, teacher.network, teacher.variables, axis=None)
    state, made = loop.first(job.method, job.network, job.tx, seed=0), []
    begin, invert, finish = (
        jax.jit(f) for f in (loop.begin(job.method), job.method.synthesis.step, loop.finish(job.method))
    )
    distill = jax.jit(loop.distill(job.method, job.step))
    for _ in range(3):
        work = begin(state)
        for _ in range(job.method.synthesis.steps):
            work, _ = invert(work, teacher.variables, state.student.variables)
        state, metrics = finish(state, work, teacher.variables)
        for _ in range(4):
            state, metrics = distill(state, teacher.variables)
        made.append(float(metrics["distillation"]))
    assert np.isfinite(made).all() and int(state.student.step) == 12
    assert [f._cache_size() for f in (begin, invert, finish, distill)] == [1, 1, 1, 1]


def test_a_workdir_of_another_run_is_refused_and_stays(teacher, tmp_path):
    distil(teacher, rounds=2, workdir=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    for options in ({"seed": 1}, {"config": small(student__lr=0.01)}):
        with pytest.raises(ssdkd_jax.InputError, match=r"holds another run .* choose another workdir"):
            distil(teacher, workdir=tmp_path, **{"rounds": 2, **options})
    with pytest.raises(ssdkd_jax.InputError, match=r"student.network = .* choose another workdir"):
        ssdkd_jax.distill(teacher, Other(), small(), rounds=2, workdir=tmp_path)
    assert before.keys() <= {path for path in tmp_path.rglob("*") if path.is_file()}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items() if "lock" not in path.name)


class Other(nn.Module):
    """Another student than the tiny one."""

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(3)(images.reshape(images.shape[0], -1))


DATALESS = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "ssdkd_jax.data" or name.split(".")[0] in ("tensorflow_datasets", "array_record", "sklearn"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
import flax.linen as nn, numpy as np, ssdkd_jax

class Student(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(3)(images.reshape(images.shape[0], -1))

weights = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
teacher = ssdkd_jax.Teacher.from_function(lambda w, x: x.reshape(len(x), -1) @ w, weights, image_shape=(8, 8, 1))
config = ssdkd_jax.default_config(teacher, Student())
config.student.batch = config.synthesis.batch = 16
config.synthesis.update(inner_steps=1, width=4, latent=8)
config.buffer.size, config.schedule.distill_steps = 32, 1
distilled = ssdkd_jax.distill(teacher, Student(), config, rounds=2, workdir="run")
print(sorted(distilled.indicators))
"""


def test_a_run_without_data_imports_nothing_of_data(tmp_path):
    env = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": quick.FLAGS}
    run = subprocess.run([sys.executable, "-c", DATALESS], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    told = {"agreement", "fresh_balance", "fresh_confidence", "fresh_kl", "fresh_spread", "taught_agreement"}
    assert told <= set(ast.literal_eval(run.stdout))
    assert {"summary.json", "student", "synthetic.png"} <= {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.eight_devices
def test_eight_devices_are_interrupted_and_go_on(rng, tmp_path, monkeypatch):
    tiny.use_devices(monkeypatch, 8)
    weights = rng.normal(size=(64, tiny.CLASSES)).astype(np.float32)
    teacher = ssdkd_jax.Teacher.from_function(flat, weights, **SMALL)
    learn = functools.partial(ssdkd_jax.distill, teacher, Half(), config=small(schedule__evaluate_every=4))
    stopped = learn(workdir=tmp_path, on_round=interrupting(2))
    assert not stopped.finished and len(stopped.synthetic)
    assert tiny.tree_equal(learn(workdir=tmp_path).student.variables, learn().student.variables)
