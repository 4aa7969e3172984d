"""The run as a library calls it: values in, no flags, a folder out."""

import logging
import re
import shutil
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssdkd_jax import config, data, hints, presets, settings, student
from ssdkd_jax.engine import checkpoint as engine_checkpoint
from ssdkd_jax.engine import loop, optimization, parallel, preemption
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import saved
from ssdkd_jax.report import progress
from ssdkd_jax.run import identity, pipeline, profiling, summary, teacher, yardstick
from ssdkd_jax.tasks import classification
from ssdkd_jax.types import Batch

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
    config = tiny.make_config(teacher__checkpoint=checkpoint, **tiny.PLAIN, **SHORT)
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


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


RUN = tiny.PLAIN | SHORT | dict(yardstick_steps=0, schedule__rounds=3)
OTHERS = {
    "seed = 0 there and 1 here": dict(seed=1),
    "student.lr = 0.05 there and 0.06 here": dict(student__lr=0.06),
    "student.temperature = 4.0 there and 5.0 here": dict(student__temperature=5.0),
    "method.name = ssdkd there and generative here": dict(method__name="generative", views__count=0),
    "schedule.rounds = 3 there and 2 here": dict(schedule__rounds=2),
    "schedule.distill_steps = 2 there and 1 here": dict(schedule__distill_steps=1),
    "teacher = [0-9a-f]{64} there and [0-9a-f]{64} here": dict(teacher__checkpoint="other"),
}


@pytest.fixture(scope="module")
def used(tmp_path_factory, dataset, teacher_variables):
    """Folders with a finished and an interrupted run, and the settings of both; two teachers beside them."""
    folder = tmp_path_factory.mktemp("used")
    saved.save(folder / "saved", teacher_variables, saved.note("tiny:Tiny", tiny.INPUTS))
    other = jax.tree.map(lambda x: x + x.dtype.type(1e-3), dict(teacher_variables))
    saved.save(folder / "other", other, saved.note("tiny:Tiny", tiny.INPUTS))
    config = tiny.make_config(teacher__checkpoint=str(folder / "saved"), **RUN)
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_devices(patch, 1)
        pipeline.run(config, dataset, folder / "finished")
        with pytest.raises(preemption.Preempted):
            pipeline.run(config, dataset, folder / "interrupted", stop=StopAfter(4))
    return folder, config


class StopAfter:
    """Asks to stop from its `calls`-th call on."""

    def __init__(self, calls):
        self.left = calls

    def __call__(self):
        self.left -= 1
        return self.left < 0


def test_the_student_is_saved_before_the_devices_are_compared(used, dataset, one_device, tmp_path, monkeypatch):
    folder, config = used
    run = shutil.copytree(folder / "finished", tmp_path / "run")
    shutil.rmtree(run / "student")

    def differ(tree):
        raise RuntimeError("'w' differs between devices")

    monkeypatch.setattr(parallel, "check_replicated", differ)
    with pytest.raises(RuntimeError, match="differs between devices"):
        pipeline.run(config, dataset, run)
    student, expected = (saved.load(place / "student", "tiny:Tiny").variables for place in (run, folder / "finished"))
    assert tiny.tree_equal(dict(student), dict(expected))


@pytest.mark.parametrize("how", ["finished", "interrupted"])
@pytest.mark.parametrize("sentence", OTHERS)
def test_another_run_in_a_used_folder_is_refused_and_nothing_there_changes(used, dataset, one_device, how, sentence):
    folder, config = used
    before, other = contents(folder), tiny.config_fields(config.copy_and_resolve_references(), **OTHERS[sentence])
    if other.teacher.checkpoint == "other":
        other.teacher.checkpoint = str(folder / "other")
    with pytest.raises(InputError, match=rf"{how}' holds another run \(.*{sentence}.*\); choose another workdir"):
        pipeline.run(other, dataset, folder / how)
    assert contents(folder) == before


def test_a_run_without_settings_in_its_checkpoint_and_files_of_nobodys_run_are_refused(
    used, dataset, one_device, tmp_path
):
    config = used[1]
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "summary.json").write_text("mine")
    engine_checkpoint.save(tmp_path / "old" / "checkpoints", 3, {"w": np.ones(2)}, {"seconds": {}})
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"'summary\.json' but no run that made it; choose another workdir"):
        pipeline.run(config, dataset, tmp_path / "foreign")
    with pytest.raises(InputError, match="does not say under which settings it was made; choose another workdir"):
        pipeline.run(config, dataset, tmp_path / "old")
    assert contents(tmp_path) == before


def test_what_may_change_may_change_and_a_longer_run_says_so(used, dataset, one_device, tmp_path):
    folder, config = used
    moved = shutil.copytree(folder / "saved", tmp_path / "moved")
    changes = dict(schedule__evaluate_every=2, schedule__checkpoint_seconds=0.0, teacher__checkpoint=str(moved))
    for how, rounds, shorter in (
        ("finished", 5, [{"rounds": 3, "schedule.rounds": 3}]),
        ("interrupted", 3, []),
    ):
        run = shutil.copytree(folder / how, tmp_path / how)
        longer = tiny.config_fields(config.copy_and_resolve_references(), schedule__rounds=rounds, **changes)
        found = pipeline.run(longer, dataset, run)
        assert (found["curve"][-1]["round"], found["planned_shorter"]) == (rounds, shorter)
        assert found["config"]["schedule"]["rounds"] == rounds
    page = (Path(__file__).parents[1] / "docs" / "running.md").read_text()
    rows = page.partition("| setting | what may change |")[2].partition("\n\n")[0].splitlines()[2:]
    listed = (name for row in rows for name in re.findall(r"`([a-z_.]+)`", row.split("|")[1]))
    assert set(listed) == identity.MAY_CHANGE.keys()


def test_a_teacher_trained_under_other_settings_is_refused_before_anything_else(dataset, one_device, tmp_path):
    config = tiny.make_config(teacher__epochs=1, teacher__batch=16, **RUN)
    pipeline.run(config, dataset, tmp_path)
    before = contents(tmp_path)
    for field, value in (("lr", 0.3), ("epochs", 2), ("flip", True)):
        other = config.copy_and_resolve_references()
        other.teacher[field] = value
        sentence = (
            rf"teacher' holds another run \(teacher\.{field} = .* there and {value} here\); .*teacher\.checkpoint"
        )
        with pytest.raises(InputError, match=sentence):
            pipeline.run(other, dataset, tmp_path)
        with pytest.raises(InputError, match=sentence):
            teacher.train(other, dataset, tmp_path)
    assert contents(tmp_path) == before


def test_all_that_does_not_fit_is_told_at_once_before_a_teacher_is_trained(dataset, one_device, tmp_path):
    config = tiny.make_config(
        teacher__model="tiny:Linear", teacher__batch=100, synthesis__bn=1.0, synthesis__latent=2, synthesis__doublings=4
    )
    with pytest.raises(InputError) as error:
        pipeline.run(config, dataset, tmp_path)
    sentences = str(error.value).split("\n")
    for words in (
        "48 images are fewer",
        "synthesis.bn = 1.0",
        "synthesis.latent = 2",
        "divisible by 16",
        "no BatchNorm",
    ):
        assert any(words in sentence for sentence in sentences), words
    assert not list(tmp_path.iterdir())


def test_the_buffer_is_told_where_there_is_one_and_times_with_and_without_the_teacher(used):
    curve = [{"seconds": 10.0, "accuracy": 0.5}, {"seconds": 12.0, "accuracy": 0.9}]
    found = summary.scores("accuracy", {"accuracy": 1.0}, curve, curve[-1], 8.0)
    assert (found["time_to_accuracy"]["0.90"], found["time_to_accuracy_after_teacher"]["0.90"]) == (12.0, 4.0)
    assert found["time_to_accuracy_after_teacher"]["0.98"] is None
    for method, size in (("ssdkd", tiny.SLOTS), ("generative", None), ("fast_dfkd", None)):
        config = tiny.make_config(method__name=method)
        job = types.SimpleNamespace(method=types.SimpleNamespace(images_made=lambda rounds, steps: 0))
        assert summary.amounts(config, job, loop.Position(4, 6))["buffer_size"] == size


def test_a_model_of_ones_own_that_cannot_serve_is_told_before_anything_is_trained(dataset, one_device, tmp_path):
    config = tiny.make_config(student__model="tiny:Careless", student__attention=0.0, teacher__batch=100)
    with pytest.raises(InputError, match=r"^Model 'tiny:Careless': .*'Dropout_0'"):
        pipeline.run(config, dataset, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_teacher_and_a_student_with_dropout_are_trained_and_the_run_repeats_itself(dataset, one_device, tmp_path):
    config = tiny.make_config(teacher__model="tiny:Dropping", student__model="tiny:Dropping", student__attention=0.0)
    config = tiny.config_fields(config, teacher__epochs=1, teacher__batch=16, student__update_bn=2, **SHORT)
    students = []
    for name in ("once", "again"):
        pipeline.run(config, dataset, tmp_path / name)
        students.append(saved.load(tmp_path / name / "student", "tiny:Dropping").variables)
    assert tiny.tree_equal(*students)


def test_a_step_with_dropout_follows_its_key_and_the_device(teacher_variables):
    network, tx = tiny.bound(tiny.Dropping(tiny.CLASSES)), optimization.sgd(0.1, 10, 0.0, 0.1)
    state = optimization.init(network, tx, jax.random.key(0))
    x = tiny.images(0)
    f_t = tiny.teacher_network().apply(teacher_variables, x)
    batch = Batch(images=x, teacher_logits=f_t, weights=jnp.ones(len(x)), slots=jnp.arange(len(x)))
    step = student.make_step(network, classification.make(tiny.CLASSES, 4.0), hints.none(), tx, None)
    losses = [float(step(state, batch, jax.random.key(seed))[2]["distillation"]) for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    data = np.tile(jax.random.key_data(jax.random.key(0)), (jax.local_device_count(), 1))
    own = jax.pmap(lambda d: jax.random.key_data(parallel.local_key(jax.random.wrap_key_data(d), "d")), axis_name="d")
    assert len(np.unique(np.asarray(own(data)), axis=0)) == jax.local_device_count()


INSIDE = {"least": lambda b: b, "most": lambda b: b, "above": lambda b: b + 1e-6, "below": lambda b: b - 1e-3}
NEEDED = {  # what else a field's boundary asks for
    "teacher.batch": dict(teacher__checkpoint=""),
    "teacher.epochs": dict(teacher__checkpoint="", teacher__batch=16),
    "student.batch": dict(synthesis__batch=2),
    "buffer.size": dict(synthesis__batch=1, student__batch=1),
    "synthesis.latent": dict(synthesis__class_code=0.0, synthesis__latent=3),
    "views.mixup": dict(views__count=0),
    "views.mixup_until": dict(views__count=0, views__mixup=0.5),
    "student.regression": dict(student__attention=0.0),
    "synthesis.lr_meta": dict(synthesis__start="reptile"),
    "schedule.rounds": dict(schedule__warmup=0),
    "synthesis.bn": dict(synthesis__oh=1.0),
    "task.presence": dict(
        task__name="segmentation",
        teacher__model="tiny:Pixels",
        teacher__checkpoint="",
        teacher__batch=16,
        student__model="tiny:Pixels",
        student__attention=0.0,
    ),
}
PRESET = {"cmi": "cmi", "deepinversion": "deepinversion", "generative": "dafl", "given": "real_small"}


def boundaries():
    for record in config.records():
        for name, field in settings.fields(record).items():
            for word, bound in field.metadata["bounds"].items():
                value = INSIDE[word](bound)
                yield pytest.param(name, type(field.default or 0.0)(value) if value % 1 else value, id=f"{name}-{word}")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), boundaries())
def test_a_boundary_that_is_accepted_also_runs_a_round(name, value, dataset, one_device, tmp_path, teacher_variables):
    saved.save(tmp_path / "saved", teacher_variables, saved.note("tiny:Tiny", tiny.INPUTS))
    cfg = tiny.make_config(teacher__checkpoint=str(tmp_path / "saved"), **SHORT)
    if preset := PRESET.get(name.partition(".")[0]):
        presets.apply(cfg, preset)
        tiny.config_fields(cfg, synthesis__inner_steps=2, synthesis__width=4, synthesis__latent=6, **SHORT)
    tiny.config_fields(cfg, **NEEDED.get(name, {}))
    tiny.config_fields(cfg, **{name.replace(".", "__"): value})
    if cfg.task.name == "segmentation":
        masks = np.arange(64, dtype=np.uint8).reshape(8, 8) % tiny.CLASSES
        labels = np.broadcast_to(masks, (48, 8, 8))
        dataset = dataset._replace(train_labels=labels, test_labels=labels)
    found = pipeline.run(cfg, dataset, tmp_path / "run")
    assert 0 <= found[f"student_{found['score']}"] <= 1
    jax.clear_caches()  # XLA:CPU does not survive the programs of all these runs in one process
