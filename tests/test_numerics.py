"""Whatever jax is set to: no state changes its dtypes, and nothing is compiled twice."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_methods import configured, job_of

from ssdkd_jax import augment, build, presets
from ssdkd_jax.engine import calibration, evaluation, loop, optimization, parallel, supervised
from ssdkd_jax.engine.trees import named_leaves
from ssdkd_jax.run import pictures
from ssdkd_jax.tasks import classification, segmentation

BLENDED = dict(views__count=0, views__mixup=0.5, student__attention=0.0, student__regression=1.0)
VARIANTS = {
    "blended": dict(synthesis__start="reptile", sampler__name="priority", **BLENDED),
    "dense": dict(task__name="segmentation", teacher__model="tiny:Pixels", student__model="tiny:Pixels"),
}
QUICK = ("ssdkd", "zskt")
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in (*presets.PRESETS, *VARIANTS)]


@pytest.fixture
def unusual():
    """Jax as a user may have set it."""
    with contextlib.ExitStack() as stack:
        for setting in (jax.enable_x64(True), jax.debug_nans(True), jax.numpy_dtype_promotion("strict")):
            stack.enter_context(setting)
        stack.enter_context(jax.default_prng_impl("rbg"))
        yield


def checked(tree):
    """The tree; no leaf is of 64 bits or weakly typed."""
    kinds = {name: (leaf.dtype, leaf.weak_type) for name, leaf in named_leaves(tree).items()}
    assert not {name: kind for name, kind in kinds.items() if kind[0].itemsize > 4 or kind[1]}
    return tree


def job_named(name, variables):
    if name not in VARIANTS:
        return job_of(name, variables, axis=None), variables
    config = tiny.make_config(student__attention=0.0)
    config = tiny.config_fields(config, **VARIANTS[name])
    network = build.network(config.teacher.model, tiny.INPUTS, None)
    variables = variables if name == "blended" else network.init(jax.random.key(3))
    return build.job(config, tiny.INPUTS, network, variables, None), variables


@pytest.mark.parametrize("name", EACH)
def test_a_round_keeps_its_dtypes_and_compiles_once(name, teacher_variables, unusual):
    job, variables = job_named(name, teacher_variables)
    programs = [loop.begin(job.method), job.method.synthesis.step, loop.finish(job.method)]
    programs += [loop.distill(job.method, job.step), calibration.make_pass(job.method, job.network, 4, None)]
    begin, invert, finish, distill, renew = programs = [jax.jit(program) for program in programs]
    state = checked(tiny.first_state(job))
    assert state.key.shape == (4,)
    for number in range(2):
        work = checked(begin(state))
        for _ in range(2):
            work, _ = checked(invert(work, variables, state.student.variables))
        state, _ = checked(finish(state, work, variables))
        for _ in range(2):
            state, _ = checked(distill(state, variables))
        checked(renew(state.student.variables, state, variables, jnp.int32(number)))
    rows = checked(jax.jit(job.method.preview)(state.method, variables, jax.random.key(1)))
    checked(jax.jit(pictures.of_each_class(tiny.CLASSES, None))(rows))
    assert [program._cache_size() for program in programs] == [1] * 5


@pytest.mark.parametrize("dense", [False, True])
def test_training_and_evaluation_on_labelled_images_keep_their_dtypes(dense, one_device, unusual):
    network = build.network("tiny:Pixels" if dense else "tiny:Tiny", tiny.INPUTS)
    task = segmentation.make(3, 1.0, 0.1) if dense else classification.make(3, 1.0)
    recipe = supervised.Recipe(2, 8, optimization.sgd(0.1, 4, 1e-4, 0.1), augment.make(True, 1))
    images = np.random.default_rng(0).integers(0, 256, (16, *tiny.SHAPE), np.uint8)
    labels = np.asarray(images[..., 0] // 86 if dense else np.arange(16) % 3, np.int32)
    state = parallel.to_devices(checked(optimization.init(network, recipe.tx, jax.random.key(0))))
    heard = []

    def on_epoch(epoch, state, scores):
        heard.append(scores["loss"])
        checked(state)

    state = supervised.fit(network, task, recipe, state, images, labels, jax.random.key(1), on_epoch)
    assert np.isfinite(heard).all()
    assert len(heard) == 2
    scores = evaluation.make(network, task, images, labels, 8)(state.variables)
    assert 0 <= scores["accuracy"] <= 1


@pytest.mark.eight_devices
@pytest.mark.slow
def test_a_run_on_devices_keeps_its_dtypes(teacher_variables, monkeypatch, unusual):
    tiny.use_devices(monkeypatch, 2)
    config = configured("ssdkd")
    job = build.job(config, tiny.INPUTS, tiny.teacher_network(parallel.AXIS), teacher_variables)
    first, teacher = tiny.first_state(job), parallel.to_devices(teacher_variables)
    programs = loop.compile_round(job.method, job.step, job.plan, parallel.to_devices(first), teacher)
    state = loop.run(programs, job.plan, parallel.to_devices(first), teacher, tiny.clock, lambda *_: None)
    checked(state)
    assert [leaf.dtype for leaf in jax.tree.leaves(state)] == [leaf.dtype for leaf in jax.tree.leaves(first)]
