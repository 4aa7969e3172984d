"""Records of settings: what a field carries, who reads it, and what is refused; shapes at the public borders."""

import math
import types
import typing

import jax
import jax.numpy as jnp
import pytest
import tiny
from ml_collections import ConfigDict

from ssdkd_jax import config, hints, losses, presets, replay_buffer, sampler, settings, student
from ssdkd_jax.engine import optimization, parallel
from ssdkd_jax.errors import InputError
from ssdkd_jax.methods import peer_losses
from ssdkd_jax.run import pipeline
from ssdkd_jax.tasks import classification
from ssdkd_jax.types import Batch

FIELDS = {
    name: (field, typing.get_type_hints(record)[field.name])
    for record in config.records()
    for name, field in settings.fields(record).items()
}
WITHIN = {
    "least": lambda value, bound: value >= bound,
    "most": lambda value, bound: value <= bound,
    "above": lambda value, bound: value > bound,
    "below": lambda value, bound: value < bound,
}


def flat(part, prefix=""):
    for name, value in part.items():
        yield from flat(value, f"{prefix}{name}.") if hasattr(value, "items") else [prefix + name]


def test_the_config_has_the_fields_of_the_records_and_no_others():
    assert set(flat(config.default())) == FIELDS.keys()


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_carries_its_meaning_and_a_default_of_its_type_and_range(name):
    field, kind = FIELDS[name]
    default, meta = field.default, field.metadata
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    assert len(meta["meaning"]) > 5
    assert type(default) in kinds
    assert default is None or all(WITHIN[word](default, bound) for word, bound in meta["bounds"].items())
    assert not meta["choices"] or default in meta["choices"]
    assert any(line.startswith(f"{name} = {default!r}: {meta['meaning']}") for line in config.described().splitlines())


def of_another_type(kind):
    """Values that a field of a type does not take."""
    bare = [part for part in typing.get_args(kind) if part is not types.NoneType] or [kind]
    wrong = {bool: [1, "yes"], int: [1.5, True, "1", [1]], float: [True, "1", math.nan, math.inf, []], str: [1, True]}
    return wrong[bare[0]] + ([] if isinstance(kind, types.UnionType) else [None])


def out_of_range(field, kind):
    """Values just outside of each of its bounds, and names that are none of its choices."""
    step = 1 if int in (kind, *typing.get_args(kind)) else 1e-9
    bounds = field.metadata["bounds"]
    outside = {"least": lambda b: b - step, "most": lambda b: b + step, "above": lambda b: b, "below": lambda b: b}
    found = [outside[word](bound) for word, bound in bounds.items()]
    return found + [name + "x" for name in field.metadata["choices"]]


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_of_a_wrong_type_out_of_range_or_misspelt_stops_a_run_with_one_sentence(name, tmp_path):
    field, kind = FIELDS[name]
    cases = [(value, None) for value in (*of_another_type(kind), *out_of_range(field, kind))]
    part, _, last = name.rpartition(".")
    for value, misspelt in [*cases, (field.default, last + "s")]:
        values = config.default().unlock().to_dict()
        section = values[part] if part else values
        section[misspelt or last] = value
        with pytest.raises(InputError) as error:
            pipeline.run(ConfigDict(values, type_safe=False), None, tmp_path / "run")
        sentence = str(error.value)
        assert sentence.count("\n") == 0, sentence
        if misspelt:
            assert sentence == f"The config has no field '{name}s'; did you mean '{name}'?"
        else:
            assert sentence.startswith(f"{name} = {value!r} is not "), sentence
            assert sentence.endswith((".", "?"))
    assert not (tmp_path / "run").exists()


def test_a_section_that_is_missing_or_no_section_is_told():
    values = config.default().unlock().to_dict()
    del values["student"]
    values["buffer"] = 5
    with pytest.raises(InputError) as error:
        config.check(values)
    assert {"student = None is no section; start from config.default().", "buffer = 5 is no section"} <= {
        line.partition("; start")[0] if line.startswith("buffer") else line for line in str(error.value).split("\n")
    }


def test_all_faults_of_a_config_are_told_at_once_and_none_that_follows_from_another():
    values = config.default().unlock().to_dict()
    values["student"].update(batch=-4, attention=1.0, regression=1.0)
    values["schedule"].update(rounds=3, warmup=3)
    values["sampler"]["name"] = "prioritised"
    values["synthesis"]["oh"] = None
    with pytest.raises(InputError) as error:
        config.check(values, ["cmi.memory"])
    told = [line.split(" = ")[0].split(" would")[0] for line in str(error.value).split("\n")]
    expected = ["cmi.memory", "sampler.name", "schedule.warmup", "student.attention", "student.batch", "synthesis.oh"]
    assert sorted(told) == expected


def test_a_field_that_may_be_none_keeps_its_type():
    cfg = config.default()
    cfg.synthesis.batch = None
    with pytest.raises(TypeError):
        cfg.synthesis.batch = "many"


def test_two_records_cannot_hold_the_same_field():
    @settings.section("sampler")
    class Again:
        alpha: float = settings.setting(1.0, "an exponent")

    with pytest.raises(ValueError, match=r"Two records hold the setting 'sampler\.alpha'"):
        settings.defaults([sampler.Priority, Again])


REFUSED = [
    ("deepinversion", {}, "synthesis.bn_past"),
    ("deepinversion", {}, "synthesis.latent"),
    ("fast_dfkd_5", {}, "sampler.name"),
    ("fast_dfkd_5", {}, "modulation.gamma"),
    ("fast_dfkd_5", {}, "buffer.half_life"),
    ("dfad", {}, "synthesis.bn_past"),
    ("dfad", {}, "synthesis.start"),
    ("dafl", {}, "views.count"),
    ("cmi", {}, "synthesis.class_code"),
    ("cmi", {}, "generative.balance"),
    ("real", {}, "synthesis.inner_steps"),
    ("ssdkd", {}, "cmi.memory"),
    ("ssdkd", {}, "given.images"),
    ("ssdkd", {"sampler__name": "uniform"}, "sampler.alpha"),
    ("ssdkd", {"sampler__name": "priority"}, "sampler.entropy"),
    ("ssdkd", {"synthesis__start": "sequential"}, "synthesis.lr_meta"),
    ("ssdkd", {}, "task.presence"),
]


@pytest.mark.parametrize(("preset", "fields", "name"), REFUSED)
def test_a_field_that_the_run_does_not_read_is_refused_by_name(preset, fields, name):
    cfg = tiny.config_fields(presets.apply(config.default(), preset), **fields)
    with pytest.raises(ValueError, match=rf"^{name} would do nothing in this run .* leave it out\.$"):
        config.check(cfg, ["student.lr", name])


@pytest.mark.parametrize(
    ("preset", "fields", "name"),
    [
        ("fast_dfkd_5", {}, "synthesis.bn_past"),
        ("cmi", {}, "cmi.memory"),
        ("real_small", {}, "buffer.size"),
        ("dafl", {}, "buffer.size"),  # of the yardstick
        ("ssdkd", {"sampler__name": "policy_gradient"}, "sampler.entropy"),
        ("ssdkd", {"synthesis__start": "reptile"}, "synthesis.lr_meta"),
        ("ssdkd", {"task__name": "segmentation"}, "task.presence"),
    ],
)
def test_a_field_that_the_run_reads_is_not(preset, fields, name):
    cfg = tiny.config_fields(presets.apply(config.default(), preset), **fields)
    config.check(cfg, [name, "seed", "teacher.epochs", "data.folder", "schedule.rounds"])


def test_all_that_is_refused_is_named_at_once():
    cfg = presets.apply(config.default(), "dafl")
    with pytest.raises(ValueError, match=r"^sampler\.name, views\.mixup would do nothing .*'generative'"):
        config.check(cfg, ["views.mixup", "sampler.name"])


def batch_of(images=4, weights=(4,), logits=(4, tiny.CLASSES)):
    return Batch(
        images=jnp.zeros((images, *tiny.SHAPE)),
        teacher_logits=jnp.zeros(logits),
        weights=jnp.ones(weights),
        slots=jnp.arange(images),
    )


@pytest.mark.parametrize("wrong", [{"weights": (4, 1)}, {"weights": (3,)}, {"logits": (1, tiny.CLASSES)}])
def test_the_student_refuses_batches_that_would_broadcast(wrong):
    network, tx = tiny.bound(tiny.Linear(tiny.CLASSES)), optimization.sgd(0.1, 10, 0.0, 0.1)
    step = student.make_step(network, classification.make(tiny.CLASSES, 1.0), hints.none(), tx, None)
    state = optimization.init(network, tx, jax.random.key(0))
    jax.eval_shape(step, state, batch_of())
    with pytest.raises(AssertionError):
        jax.eval_shape(step, state, batch_of(**wrong))


@pytest.mark.parametrize(
    "call",
    [
        lambda: losses.kl_divergence(jnp.zeros((1, 3)), jnp.zeros((4, 3))),
        lambda: losses.distillation(jnp.zeros(3), jnp.zeros((4, 3)), 2.0),
        lambda: losses.adversarial(jnp.zeros((4, 1)), jnp.zeros((4, 3))),
        lambda: losses.cross_entropy(jnp.zeros((4, 3)), jnp.zeros((4, 1), int)),
        lambda: peer_losses.l1(jnp.zeros((1, 3)), jnp.zeros((4, 3))),
        lambda: peer_losses.jensen_shannon(jnp.zeros((1, 3)), jnp.zeros((4, 3)), 1.0),
        lambda: sampler.draw(jax.random.key(0), jnp.zeros((4, 1)), 2),
        lambda: sampler.log_probabilities(jnp.zeros(4), jnp.ones((4, 1), bool)),
        lambda: sampler.importance_weights(jnp.zeros(4), jnp.zeros((2, 1), int), 1.0),
    ],
)
def test_public_functions_refuse_shapes_that_would_broadcast(call):
    with pytest.raises(AssertionError):
        call()


def test_rows_that_do_not_divide_by_the_devices_are_refused():
    def local(rows):
        return jax.vmap(lambda _: parallel.local_rows(jnp.arange(rows), "devices"), axis_name="devices")(jnp.arange(8))

    assert local(16).tolist() == [[2 * device, 2 * device + 1] for device in range(8)]
    with pytest.raises(AssertionError):
        local(12)


def test_a_buffer_refuses_as_many_slots_as_it_has_no_newcomers_for():
    rows = replay_buffer.Rows(
        images=jnp.zeros((2, *tiny.SHAPE), jnp.uint8), seeds=jnp.zeros(2, jnp.uint32), logits=jnp.zeros((2, 1, 3))
    )
    buffer = replay_buffer.init(5, 5, rows)
    index = jax.tree.map(lambda x: x[:2], buffer.index)
    replay_buffer.put(buffer, jnp.arange(2), index, rows, None)
    with pytest.raises(AssertionError):
        replay_buffer.put(buffer, jnp.arange(3), index, rows, None)
