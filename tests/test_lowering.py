"""Accelerators that are not here: every jitted step lowers for CUDA and TPU, and none asks where it runs.

The slow ones take the CIFAR shapes of the paper: python -m pytest -m slow tests/test_lowering.py
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax import export

from ssdkd_jax import build, models, recipes
from ssdkd_jax.engine import dispatch, evaluation, guard, loop, parallel, supervised
from ssdkd_jax.run import teacher as teachers

CIFAR = build.Inputs((32, 32, 3), 100, (0.5,) * 3, (0.25,) * 3)
PLATFORMS = ("cuda", "tpu")


def steps_of(cfg, inputs, axis):
    """name -> (step, shapes of its arguments): everything that a run of this config compiles."""
    teacher = build.network(cfg.teacher.model, inputs, axis, cfg.compute)
    variables = jax.eval_shape(teacher.init, jax.random.key(0))
    job = build.job(cfg, inputs, teacher, variables, axis)
    state = jax.eval_shape(lambda: loop.init(job.method, job.network, job.tx, 0))
    begin = loop.begin(job.method)
    work = jax.eval_shape(begin, state)
    recipe = teachers.recipe_of(cfg, 1024)
    fitted = jax.eval_shape(lambda: supervised.optimization.init(teacher, recipe.tx, jax.random.key(0)))
    images = jax.ShapeDtypeStruct((1024, *inputs.image_shape), "uint8")
    labels, key = jax.ShapeDtypeStruct((1024,), "int32"), jax.eval_shape(lambda: jax.random.key(0))
    present = jax.ShapeDtypeStruct((1024,), "float32")
    return {
        "begin": (begin, (state,)),
        "invert": (
            guard.skipping(job.method.synthesis.step, "inversion", axis),
            (work, variables, state.student.variables),
        ),
        "finish": (loop.finish(job.method), (state, work, variables)),
        "distill": (guard.skipping(loop.distill(job.method, job.step), "distillation", axis), (state, variables)),
        "supervised": (supervised.make_step(teacher, job.task, recipe, axis), (fitted, images, labels, labels, key)),
        "evaluate": (evaluation.make_step(teacher, job.task, axis), (variables, images, labels, present)),
    }


def lowered(step, arguments):
    """StableHLO of a step for the accelerators that are not here."""
    return export.export(jax.jit(step), platforms=PLATFORMS)(*arguments).mlir_module()


def check(module, compute):
    assert "callback" not in module
    computed = set(re.findall(r"stablehlo\.(?:convolution|dot_general).*-> tensor<[0-9x]*x(\w+)>", module))
    assert computed <= {"float32": {"f32"}, "bfloat16": {"bf16", "f32"}}[compute]
    assert compute == "float32" or not re.search(r"convolution.*-> tensor<[0-9x]*xf32>", module)
    assert not re.search(r"tensor<[0-9x]*x?f64>", module)


@pytest.mark.parametrize("compute", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_every_step_lowers_for_accelerators(compute):
    for name, (step, arguments) in steps_of(
        tiny.make_config(compute=compute, teacher__batch=16), tiny.INPUTS, None
    ).items():
        module = lowered(step, arguments)
        check(module, compute)
        assert ("convolution" in module) == (name != "begin"), name


@pytest.mark.eight_devices
def test_a_dispatch_of_many_steps_on_many_devices_lowers_for_accelerators(teacher_variables):
    job = tiny.job(tiny.make_config(), teacher_variables)
    state, teacher = parallel.to_devices((tiny.first_state(job), teacher_variables))
    looped = dispatch.repeat(loop.distill(job.method, job.step), 5, looped=True)
    module = lowered(lambda *arguments: looped.dispatch.many(*arguments), (state, teacher))
    check(module, "float32")
    assert "stablehlo.while" in module
    assert "stablehlo.all_reduce" in module


def test_what_all_devices_hold_is_never_added_up_in_an_open_order(single):
    job, state, variables = single
    batch = jax.eval_shape(job.method.sample, state.method, variables, jnp.int32(0), jax.random.key(0))
    gaps = jax.ShapeDtypeStruct(batch.slots.shape, "float32")
    text = str(jax.make_jaxpr(job.method.feedback)(state.method, batch, gaps, jnp.int32(0)))
    assert not re.search(r"f32\[\d*\] = scatter[-_]add", text)
    assert "scatter[" in text


def test_no_step_asks_where_it_runs(monkeypatch):
    def traced(platform):
        monkeypatch.setattr(jax, "default_backend", lambda: platform)
        steps = steps_of(tiny.make_config(teacher__batch=16), tiny.INPUTS, None)
        return {name: str(jax.make_jaxpr(step)(*arguments)) for name, (step, arguments) in steps.items()}

    here, there = ({k: re.sub("0x[0-9a-f]+", "", v) for k, v in traced(p).items()} for p in ("cpu", "tpu"))
    assert here == there
    assert not any("platform_index" in text for text in here.values())


@pytest.mark.slow
@pytest.mark.parametrize("compute", models.COMPUTE)
@pytest.mark.parametrize("pair", recipes.PAIRS)
def test_every_step_lowers_at_the_shapes_of_the_paper(pair, compute):
    cfg = recipes.cifar("cifar100", pair)
    for views in (cfg.views.count, 0):
        cfg.update_from_flattened_dict({"compute": compute, "views.count": views})
        for step, arguments in steps_of(cfg, CIFAR, None).values():
            check(lowered(step, arguments), compute)


def looped_and_single(step, carry, times):
    """Both forms of a repetition of `times` steps, on one device: (carry, metrics) each."""
    for looped in (False, True):
        repeated = dispatch.repeat(step, times, looped)
        carried, history = repeated(parallel.to_devices(carry))
        yield parallel.to_host(carried), dispatch.fetch(history)


@pytest.mark.parametrize(
    ("times", "length"),
    [(1, 1), (5, 5), (32, 32), (50, 25), (200, 25), (64, 32), (33, 32), (37, 32), (62, 31), (70, 32)],
)
def test_a_loop_has_a_length_that_is_known(times, length):
    assert dispatch.steps_at_once(times) == length


@pytest.mark.parametrize("times", [1, 5, 70])
def test_a_loop_of_steps_is_the_steps_one_by_one(times, one_device):
    def step(carry):
        value = jnp.sin(carry["x"]) + carry["n"]
        return {"x": value, "n": carry["n"] + 1}, {"x": value, "square": jnp.square(value)}

    (one, by_one), (loop, by_loop) = looped_and_single(step, {"x": np.float32(0.3), "n": np.int32(0)}, times)
    assert int(one["n"]) == int(loop["n"]) == times
    for name in ("x", "square"):
        assert by_one[name].shape == by_loop[name].shape == (times,)
        np.testing.assert_allclose(by_loop[name], by_one[name], rtol=1e-5)
