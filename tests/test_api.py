"""The library as its users call it: teachers of every origin, one call to a student, no data."""

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
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick
import tiny
from flax import nnx
from ml_collections import ConfigDict

import ssdkd_jax
from ssdkd_jax import build, data, errors, models
from ssdkd_jax.api import judges
from ssdkd_jax.engine import loop, parallel
from ssdkd_jax.interop import saved, torch_files, torch_layout

ROOT = Path(__file__).parents[1]
NORMAL = {"image_shape": (16, 16, 1), "mean": (0.3053,), "std": (0.376,)}
SMALL = {"image_shape": tiny.SHAPE, "mean": tiny.INPUTS.mean, "std": tiny.INPUTS.std}

pytestmark = pytest.mark.usefixtures("one_device")


class Net(nn.Module):
    """A user's own: a strided convolution with BatchNorm, and a head."""

    classes: int = 10

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(12, (5, 5), strides=(2, 2), padding=((2, 2), (2, 2)), name="conv")(images)
        x = nn.relu(nn.BatchNorm(not train, momentum=0.9, name="norm")(x))
        return nn.Dense(self.classes, name="head")(x.reshape(x.shape[0], -1))


class NnxNet(nnx.Module):
    """The same as an NNX module."""

    def __init__(self, rngs):
        padding = ((2, 2), (2, 2))
        self.conv = nnx.Conv(1, 12, (5, 5), strides=(2, 2), padding=padding, rngs=rngs)
        self.norm = nnx.BatchNorm(12, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(8 * 8 * 12, 10, rngs=rngs)

    def __call__(self, images):
        x = nnx.relu(self.norm(self.conv(images)))
        return self.head(x.reshape(x.shape[0], -1))


@functools.cache
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def weights():
    """Those of a `Net` that reads digits."""
    network, images = models.bind(Net(), (16, 16, 1), (0.3053,), (0.376,)), digits().train_images / np.float32(255)
    variables, tx = jax.jit(network.init)(jax.random.key(0)), optax.adam(3e-3)

    @jax.jit
    def step(variables, opt_state, x, y):
        def loss(params):
            logits, updated = network.train({**variables, "params": params}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), updated

        grads, updated = jax.grad(loss, has_aux=True)(variables["params"])
        updates, opt_state = tx.update(grads, opt_state)
        return {**updated, "params": optax.apply_updates(variables["params"], updates)}, opt_state

    opt_state = tx.init(variables["params"])
    for at in np.random.default_rng(0).integers(0, len(images), (150, 64)):
        variables, opt_state = step(variables, opt_state, images[at], digits().train_labels[at])
    return variables


def saved_folder(weights, tmp_path):
    ssdkd_jax.Teacher.from_linen(Net(), weights, **NORMAL).save(tmp_path / "teacher")
    return ssdkd_jax.Teacher.load(tmp_path / "teacher", "test_api:Net")


def torch_file(weights, tmp_path):
    network = models.bind(models.by_name("wrn10_1", 10), (16, 16, 1))
    state = torch_layout.to_torch(network.init(jax.random.key(0)), torch_layout.of("wrn10_1"))
    torch_files.write(tmp_path / "net.safetensors", state)
    return ssdkd_jax.Teacher.from_torch(tmp_path / "net.safetensors", mean=[0.3053], std=[0.376], image_size=16)


def torch_module(weights, tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 12, 5, 2, 2), torch.nn.BatchNorm2d(12), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(768, 10),
    )  # fmt: skip
    params, kept = jax.tree.map(np.array, (weights["params"], weights["batch_stats"]["norm"]))
    head = params["head"]["kernel"].reshape(8, 8, 12, 10).transpose(3, 2, 0, 1).reshape(10, -1)
    state = {
        "0.weight": params["conv"]["kernel"].transpose(3, 2, 0, 1), "0.bias": params["conv"]["bias"],
        "1.weight": params["norm"]["scale"], "1.bias": params["norm"]["bias"],
        "1.running_mean": kept["mean"], "1.running_var": kept["var"], "1.num_batches_tracked": np.array(1),
        "4.weight": head, "4.bias": params["head"]["bias"],
    }  # fmt: skip
    module.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    return ssdkd_jax.Teacher.from_torch_module(module, **NORMAL)


def linen(weights, tmp_path):
    return ssdkd_jax.Teacher.from_linen(Net(), weights, **NORMAL)


def nnx_module(weights, tmp_path):
    module = NnxNet(nnx.Rngs(0))
    nnx.update(module, nnx.state(module))
    for layer in ("conv", "norm", "head"):
        for name, value in weights["params"][layer].items():
            getattr(getattr(module, layer), name)[...] = value
    for name, value in weights["batch_stats"]["norm"].items():
        getattr(module.norm, name)[...] = value
    return ssdkd_jax.Teacher.from_nnx(module, **NORMAL)


def function(weights, tmp_path):
    def apply(v, x):
        conv, norm, head = (v["params"][name] for name in ("conv", "norm", "head"))
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, conv["kernel"], (2, 2), ((2, 2), (2, 2)), dimension_numbers=numbers)
        mean, var = (v["batch_stats"]["norm"][name] for name in ("mean", "var"))
        x = norm["scale"] * (x + conv["bias"] - mean) / jnp.sqrt(var + 1e-5) + norm["bias"]
        return jax.nn.relu(x).reshape(len(x), -1) @ head["kernel"] + head["bias"]

    return ssdkd_jax.Teacher.from_function(apply, weights, **NORMAL)


@pytest.mark.parametrize("make", [saved_folder, torch_file, torch_module, linen, nnx_module, function])
def test_a_teacher_of_each_kind_teaches_digits_without_data(make, weights, tmp_path, capsys):
    teacher, test = make(weights, tmp_path), (digits().test_images, digits().test_labels)
    if make is not torch_file:  # which nobody has trained
        expected = linen(weights, tmp_path)(test[0][:50])
        np.testing.assert_allclose(teacher(test[0][:50]), expected, atol=2e-3 * float(jnp.abs(expected).max()))
    seen = {function: "no BatchNorm that can be seen", torch_file: "7 BatchNorms"}.get(make, "1 BatchNorms")
    assert seen in capsys.readouterr().err

    config = ssdkd_jax.default_config(teacher, Net())
    config.student.update(batch=32, lr=0.05)
    config.synthesis.update(batch=32, inner_steps=2, width=8)
    config.schedule.update(rounds=5, warmup=1, distill_steps=20)
    config.buffer.size = 96
    assert bool(config.student.regression) == (make is not function)
    distilled = ssdkd_jax.distill(teacher, Net(), config, evaluate=test)
    assert distilled.finished and distilled.student(test[0][:3]).shape == (3, 10)
    assert {"agreement", "fresh_kl", "fresh_confidence", "fresh_balance"} <= distilled.indicators.keys()
    assert ("fresh_bn" in distilled.indicators) == (make is not function)
    known, last = distilled.summary, distilled.history[-1]
    assert known["student_accuracy"] == last["accuracy"] and known["score"] == "accuracy"
    right = np.mean(np.argmax(distilled.student(test[0]), -1) == test[1])
    np.testing.assert_allclose(right, last["accuracy"], atol=1e-6)
    if make not in (torch_file, function):
        assert known["teacher_accuracy"] > 0.9 and last["accuracy"] > 0.3  # chance is 0.1


@pytest.fixture(scope="module")
def teacher(teacher_variables):
    return ssdkd_jax.Teacher.from_linen(tiny.Tiny(tiny.CLASSES), teacher_variables, **SMALL)


def small(**fields):
    """What compiles fastest."""
    plain = {"student__attention": 0.0, "synthesis__bn_past": 0.0, "synthesis__flip": False, "synthesis__shift": 0}
    plain |= {"views__count": 0, "views__flip": False, "views__shift": 0, "sampler__name": "uniform"}
    return tiny.make_config(schedule__evaluate_every=1, data__name="none", **plain | fields)


def distil(teacher, **options):
    return ssdkd_jax.distill(teacher, tiny.Tiny(tiny.CLASSES), options.pop("config", small()), **options)


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
    assert whole.indicators["fresh_bn_first"] > 0
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


def test_too_few_images_for_a_start_and_an_unknown_start_are_refused(teacher):
    with pytest.raises(errors.InputError, match="start_procedural = 2 are too few images to start from the teacher"):
        distil(teacher, config=small(student__start="teacher", student__start_images=3, student__start_procedural=2))
    with pytest.raises(errors.InputError, match=r"start = 'techer' .* did you mean 'teacher'"):
        distil(teacher, config=small(student__start="techer"))


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


class Wide(nn.Module):
    """A user's own that takes more than its classes."""

    width: int

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(3)(nn.relu(nn.Dense(self.width)(images.reshape(images.shape[0], -1))))


def test_a_network_of_ones_own_is_saved_and_loaded_by_itself(tmp_path, rng):
    images = rng.integers(0, 256, (5, *tiny.SHAPE), np.uint8)
    weights = Wide(7).init(jax.random.key(0), jnp.zeros((1, *tiny.SHAPE)), False)
    made = ssdkd_jax.Teacher.from_linen(Wide(7), weights, **SMALL)
    made.save(tmp_path / "linen")
    np.testing.assert_array_equal(ssdkd_jax.Teacher.load(tmp_path / "linen", Wide(7))(images), made(images))
    with pytest.raises(ssdkd_jax.InputError, match=r"is not made by `classes=3` alone .* hand the module itself over"):
        ssdkd_jax.Teacher.load(tmp_path / "linen", "test_api:Wide")
    with pytest.raises(ssdkd_jax.InputError, match=r"'params\.Dense_0\.kernel' has shape"):
        ssdkd_jax.Teacher.load(tmp_path / "linen", Wide(8))
    module = NnxNet(nnx.Rngs(0))
    made = ssdkd_jax.Teacher.from_nnx(module, **NORMAL)
    made.save(tmp_path / "nnx")
    images = rng.integers(0, 256, (5, 16, 16, 1), np.uint8)
    np.testing.assert_array_equal(ssdkd_jax.load(tmp_path / "nnx", NnxNet(nnx.Rngs(1)))(images), made(images))


def test_a_function_is_exported_but_not_saved(tmp_path):
    teacher = ssdkd_jax.Teacher.from_function(flat, np.ones((64, 3), np.float32), image_shape=(8, 8, 1))
    with pytest.raises(ssdkd_jax.InputError, match=r"'function flat' is no flax module, .* export it as .stablehlo"):
        teacher.save(tmp_path / "teacher")
    assert list(tmp_path.iterdir()) == []
    teacher.export(tmp_path / "teacher.stablehlo")
    program = jax.export.deserialize(bytearray((tmp_path / "teacher.stablehlo").read_bytes()))
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    np.testing.assert_allclose(program.call(images), teacher(images), rtol=1e-5)
    other = ssdkd_jax.Teacher.from_function(
        lambda w, x: x.reshape(len(x), -1) @ w, np.ones((64, 3), np.float32), image_shape=(8, 8, 1)
    )
    with pytest.raises(ssdkd_jax.InputError, match=r"cannot be exported for batches of any size .* not len\(x\)"):
        other.export(tmp_path / "other.stablehlo")


def test_one_number_is_the_mean_of_every_channel(rng):
    images, weights = rng.integers(0, 256, (4, 8, 8, 3), np.uint8), rng.normal(size=(192, 3)).astype(np.float32)
    shape = {"image_shape": (8, 8, 3)}
    one = ssdkd_jax.Teacher.from_function(flat, weights, mean=0.4, std=0.2, **shape)
    three = ssdkd_jax.Teacher.from_function(flat, weights, mean=[0.4] * 3, std=(0.2, 0.2, 0.2), **shape)
    np.testing.assert_array_equal(one(images), three(images))
    expected = (images / 255.0 - 0.4).reshape(4, -1) / 0.2 @ weights
    np.testing.assert_allclose(one(images), expected, rtol=1e-3, atol=1e-3)


def test_comparing_is_counting(teacher, rng):
    network = models.bind(tiny.Tiny(3), tiny.SHAPE, tiny.INPUTS.mean, tiny.INPUTS.std)
    other = ssdkd_jax.Classifier(network, network.init(jax.random.key(3)), teacher.inputs, "tiny:Tiny")
    images, labels = rng.integers(0, 256, (300, *tiny.SHAPE), np.uint8), rng.integers(0, 3, 300)
    f_t, f_s = np.asarray(teacher(images)), np.asarray(other(images))
    found = ssdkd_jax.compare(teacher, other, images, labels)
    assert found["agreement"] == np.mean(f_t.argmax(-1) == f_s.argmax(-1)) and found["images"] == 300
    np.testing.assert_allclose(found["kl"], tiny.kl(f_t, f_s).mean(), rtol=1e-4)
    np.testing.assert_allclose(found["confidence"], tiny.softmax(f_t).max(-1).mean(), rtol=1e-5)
    assert found["teacher_accuracy"] == np.mean(f_t.argmax(-1) == labels)
    assert "teacher_accuracy" not in ssdkd_jax.compare(teacher, other, images)


def test_a_loop_of_ones_own_with_plain_jit(teacher):
    config = small()
    job = build.job(config, teacher.inputs, teacher.network, teacher.variables, axis=None)
    state, made = loop.init(job.method, job.network, job.tx, seed=0), []
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


class Wrong(nn.Module):
    """Answers four classes where three are asked for."""

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(4)(images.reshape(images.shape[0], -1))


def flat(w, x):
    return x.reshape(x.shape[0], -1) @ w


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
        (lambda t: ssdkd_jax.distill(t, 3, small()), "The student is a int; give a name of the zoo"),
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
import numpy as np, jax.numpy as jnp, ssdkd_jax
weights = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
teacher = ssdkd_jax.Teacher.from_function(lambda w, x: x.reshape(len(x), -1) @ w, weights, image_shape=(8, 8, 1))
config = ssdkd_jax.default_config(teacher, "wrn10_1")
config.student.batch = config.synthesis.batch = 16
config.synthesis.update(inner_steps=1, width=4)
config.schedule.distill_steps = 1
distilled = ssdkd_jax.distill(teacher, "wrn10_1", config, rounds=2, workdir="run")
print(sorted(distilled.indicators))
"""


def test_a_run_without_data_imports_nothing_of_data(tmp_path):
    env = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": quick.FLAGS}
    run = subprocess.run([sys.executable, "-c", DATALESS], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "['agreement', 'fresh_balance', 'fresh_confidence', 'fresh_kl']"
    assert {"summary.json", "student", "synthetic.png"} <= {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.eight_devices
def test_eight_devices_are_interrupted_and_go_on(teacher_variables, tmp_path, monkeypatch):
    tiny.use_devices(monkeypatch, 8)
    teacher = ssdkd_jax.Teacher.from_linen(tiny.Tiny(tiny.CLASSES), teacher_variables, **SMALL)
    stopped = distil(teacher, workdir=tmp_path, on_round=interrupting(2))
    assert not stopped.finished and len(stopped.synthetic)
    assert tiny.tree_equal(distil(teacher, workdir=tmp_path).student.variables, distil(teacher).student.variables)
