"""Random keys: what a run draws from one it uses nowhere else."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.extend.core import jaxpr_as_fun, primitives
from test_methods import job_of

from ssdkd_jax import augment, data, presets, teacher
from ssdkd_jax.engine import calibration, keys, loop
from ssdkd_jax.run import pipeline

USES = {"drawn": "random_bits_p", "split": "random_split_p", "folded": "random_fold_in_p"}
QUICK = ("ssdkd", "zskt")
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in presets.PRESETS]


def data_of(key):
    return np.asarray(jax.random.key_data(key))


@pytest.fixture
def used(monkeypatch):
    """Key data -> what `traced` programs did with it, one entry a time."""
    found = collections.defaultdict(list)

    def spied(use, bind):
        def spy(key, *rest, **params):
            if jax.config.jax_disable_jit and not hasattr(key, "batch_dim"):  # a vmap binds it once more, all rows
                jax.debug.callback(lambda rows: [found[row.tobytes()].append(use) for row in rows], rows_of(key))
            return bind(key, *rest, **params)

        return spy

    for use, name in USES.items():
        primitive = getattr(primitives, name)
        monkeypatch.setattr(primitive, "bind", spied(use, primitive.bind))
    return found


def traced(function):
    """`function` compiled, with no jit within it: there a vmap would meet each draw twice."""
    programs = []

    def call(*arguments):
        if not programs:
            with jax.disable_jit():
                jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
            programs.append((jax.jit(jaxpr_as_fun(jaxpr)), jax.tree.structure(shapes)))
        (program, structure), leaves = programs[0], jax.tree.leaves(arguments)
        return jax.tree.unflatten(structure, program(*leaves))

    return call


def rows_of(keys):
    data = jax.random.key_data(keys)
    return data.reshape(-1, data.shape[-1])


def check(used):
    """No key is drawn from twice, and none serves two kinds of use."""
    jax.effects_barrier()
    assert ["drawn"] in used.values()
    for key, uses in used.items():
        assert uses.count("drawn") <= 1, (np.frombuffer(key, np.uint32), uses)
        assert len(set(uses)) == 1, (np.frombuffer(key, np.uint32), uses)


@pytest.mark.parametrize("name", EACH)
def test_a_run_uses_no_key_twice(name, teacher_variables, used, monkeypatch):
    monkeypatch.setattr(teacher, "seeds_to_views", lambda view, seeds, indices, images: images)  # these shall recur
    job, variables = job_of(name, teacher_variables, axis=None), teacher_variables
    begin, finish, distill = map(traced, (loop.begin(job.method), loop.finish(job.method), distilling(job)))
    step, renew = traced(job.method.synthesis.step), traced(calibration.make_pass(job.method, job.network, 4, None))
    state = traced(lambda: loop.init(job.method, job.network, job.tx, 0))()
    for _ in range(2):
        work = begin(state)
        for _ in range(2):
            work, _ = step(work, variables, state.student.variables)
        state, _ = finish(state, work, variables)
        for _ in range(2):
            state, _ = distill(state, variables)
    for index in range(2):
        renew(state.student.variables, state, variables, jnp.int32(index))
    traced(job.method.preview)(state.method, variables, keys.of_stage(state.key, keys.Stage.PREVIEW))
    check(used)


def distilling(job):
    return loop.distill(job.method, job.step)


@pytest.mark.parametrize("view", [augment.make(True, 2, 5), augment.resized_crop(0.25)])
def test_a_view_uses_no_key_twice(view, used):
    traced(jax.vmap(view))(jax.random.split(jax.random.key(0), 3), tiny.images(0, 3))
    check(used)


def test_blends_use_no_key_twice(used):
    traced(augment.mixup)(jax.random.key(0), tiny.images(0), jnp.float32(0.5))
    check(used)


def test_every_stage_of_a_run_takes_a_key_of_its_own(tmp_path, one_device, monkeypatch):
    taken, of_stage = set(), keys.of_stage
    monkeypatch.setattr(keys, "of_stage", lambda data, stage, *step: taken.add(stage) or of_stage(data, stage, *step))
    images, labels = np.zeros((18, *tiny.SHAPE), np.uint8), np.arange(18, dtype=np.int32) % tiny.CLASSES
    dataset = data.Dataset(images, labels, images, labels, tiny.CLASSES, *tiny.INPUTS[2:])
    short = dict(schedule__rounds=2, schedule__warmup=1, teacher__epochs=1, teacher__batch=16, yardstick_steps=1)
    pipeline.run(
        tiny.make_config(student__update_bn=1, student__start="teacher", **tiny.PLAIN, **short), dataset, tmp_path
    )
    assert taken == set(keys.Stage)


def test_no_key_of_a_stage_is_one_of_another():
    root = keys.of_seed(3)
    shared = jax.random.wrap_key_data(root)
    of_steps = [keys.of_stage(root, stage, step) for stage in keys.Stage for step in range(4)]
    nodes = [shared, *(jax.random.fold_in(shared, stage) for stage in keys.Stage), *of_steps]
    nodes += [child for key in of_steps for child in jax.random.split(key, 8)]
    assert len({data_of(key).tobytes() for key in nodes}) == len(nodes)
