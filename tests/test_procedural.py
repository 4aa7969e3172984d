"""Distillation on procedural images alone: what the student sees, alike on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import ssdkd_jax
from ssdkd_jax import presets
from ssdkd_jax.api import rules
from ssdkd_jax.engine import optimization, parallel
from ssdkd_jax.methods import procedural, unstored
from ssdkd_jax.sources import procedural as sources


def job_of(variables, axis=None, candidates=1):
    config = presets.apply(tiny.make_config(views__count=0), "procedural")
    config.procedural.candidates = candidates
    return tiny.job(config, variables, axis=axis)


def test_a_batch_is_drawn_images_and_the_teachers_answers(teacher_variables):
    method = job_of(teacher_variables).method
    key = jax.random.key(3)
    batch = jax.jit(method.sample)(method.init(key), teacher_variables, jnp.int32(0), key)
    drawn = sources.draw(jax.random.split(key)[0], tiny.BATCH, tiny.SHAPE)
    np.testing.assert_allclose(batch.images, drawn, atol=1e-6)
    np.testing.assert_allclose(batch.teacher_logits, tiny.teacher_network().apply(teacher_variables, drawn), atol=1e-4)
    assert np.all(np.asarray(batch.weights) == 1)


@pytest.mark.parametrize("candidates", [1, 3])
@pytest.mark.eight_devices
def test_eight_devices_see_what_one_sees(teacher_variables, candidates):
    one, eight = job_of(teacher_variables, None, candidates), job_of(teacher_variables, parallel.AXIS, candidates)
    key = jax.random.key(5)
    whole = jax.jit(one.method.sample)(jnp.int32(0), teacher_variables, jnp.int32(0), key)
    program = parallel.pmap(lambda s, v: eight.method.sample(s, v, jnp.int32(0), key))
    parts = jax.device_get(program(*(parallel.to_devices(x) for x in (jnp.int32(0), teacher_variables))))
    np.testing.assert_allclose(parts.images.reshape(whole.images.shape), whole.images, atol=1e-6)


def test_rare_classes_are_kept_until_all_are_as_frequent():
    labels = jnp.repeat(jnp.arange(4), jnp.array([700, 200, 80, 20]))
    counts = np.zeros(4)
    for seed in range(50):
        chosen = procedural.rarest(jax.random.key(seed), labels, 40, 4)
        assert len(np.unique(chosen)) == 40
        counts += np.bincount(labels[chosen], minlength=4)
    assert counts.min() > 0.12 * counts.sum()  # the rarest has 20 of the 40 wanted at most, and is used up in part
    assert counts[:2].max() < 0.4 * counts.sum()


def test_a_run_of_it_needs_no_batch_norm_and_tells_what_fresh_images_say():
    weights = jax.random.normal(jax.random.key(0), (64, 3))
    teacher = ssdkd_jax.Teacher.from_function(lambda w, x: x.reshape(len(x), -1) @ w, weights, image_shape=(8, 8, 1))
    config = ssdkd_jax.default_config(teacher, "wrn10_1")
    assert (config.method.name, config.student.optimiser) == ("procedural", "adam")
    config.schedule.update(rounds=2, distill_steps=3, evaluate_every=1)
    done = ssdkd_jax.distill(teacher, "wrn10_1", config)
    assert 0 <= done.indicators["agreement"] <= 1
    assert len(done.synthetic.images) == unstored.PREVIEWED
    assert len(set(done.synthetic.labels.tolist())) == 3


def test_the_temperature_follows_the_logits_scale():
    images = jax.random.normal(jax.random.key(1), (64, 5))
    scales = []
    for scale in (1.0, 30.0):
        teacher = ssdkd_jax.Teacher.from_function(
            lambda w, x: x.reshape(len(x), -1) @ w, scale * images, image_shape=(8, 8, 1)
        )
        scales.append(rules.logit_scale(teacher))
        assert ssdkd_jax.default_config(teacher, "wrn10_1").student.temperature == max(12.0, scales[-1])
    np.testing.assert_allclose(scales[1], 30 * scales[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("flops", "candidates", "rounds"),
    [(1e5, 4, 120), (5e6, 2, 120), (1.1e7, 1, 71), (1e9, 1, 25), (np.nan, 1, 25), (0.0, 1, 25)],
)
def test_cheap_networks_get_more_steps_and_more_images_to_choose_from(monkeypatch, flops, candidates, rounds):
    weights = jax.random.normal(jax.random.key(0), (64, 3))
    teacher = ssdkd_jax.Teacher.from_function(lambda w, x: x.reshape(len(x), -1) @ w, weights, image_shape=(8, 8, 1))
    monkeypatch.setattr(rules.models, "flops", lambda *_: flops)
    config = ssdkd_jax.default_config(teacher, "wrn10_1")
    assert (config.procedural.candidates, config.schedule.rounds) == (candidates, rounds)
    assert config.schedule.evaluate_every == rounds // 5


@pytest.mark.parametrize(
    ("flops", "steps", "rounds"), [(1e5, 100, 50), (1e6, 100, 44), (4e6, 48, 25), (1e9, 30, 25), (np.nan, 30, 25)]
)
def test_cheap_networks_get_more_steps_where_images_are_inverted(monkeypatch, teacher, flops, steps, rounds):
    monkeypatch.setattr(rules.models, "flops", lambda *_: flops)
    config = ssdkd_jax.default_config(teacher, "wrn10_1")
    assert (config.schedule.distill_steps, config.schedule.rounds) == (steps, rounds)  # 5 of which only make images
    assert config.method.name == "ssdkd"


def test_adam_takes_the_same_steps_whatever_the_losss_scale():
    def path(scale):
        tx = optimization.adam(0.1, 5, 0.0, 0.0)
        w = jnp.array([1.0, -2.0])
        state = tx.init(w)
        for _ in range(5):
            w, state = optimization.descend(tx, scale * w, state, w)
        return w

    np.testing.assert_allclose(path(1.0), path(100.0), rtol=1e-3)


def test_a_method_that_is_named_has_its_own_settings_and_those_of_no_rule_for_such_networks():
    weights = jax.random.normal(jax.random.key(0), (64, 3))
    teacher = ssdkd_jax.Teacher.from_function(lambda w, x: x.reshape(len(x), -1) @ w, weights, image_shape=(8, 8, 1))
    named = ssdkd_jax.default_config(teacher, "wrn10_1", method="dafl")
    of_rules = presets.apply(rules.config_for(teacher.inputs, teacher.network, teacher.network), "dafl")
    assert named.to_dict() == of_rules.to_dict()
    assert (named.method.name, named.student.optimiser, named.student.lr) == ("generative", "sgd", 0.1)
