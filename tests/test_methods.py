"""One contract for every method: its loss, its gradients, its rounds, on one device and two, stopped and resumed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssdkd_jax import augment, build, presets, recipes
from ssdkd_jax import config as defaults
from ssdkd_jax.engine import checkpoint, loop, parallel
from ssdkd_jax.methods import cmi, deepinversion

WEIGHTS = {  # as published, for a wide residual teacher
    "fast_dfkd_2": {"bn": 10.0, "oh": 0.4, "adv": 1.1},
    "dafl": {"oh": 1.0, "balance": 20.0, "activation": 1e-3},
    "zskt": {"adv": 1.0},
    "dfad": {"adv": 1.0},
    "dfq": {"bn": 1.0, "oh": 1.0, "adv": 1.0, "balance": 20.0},
    "deepinversion": {"bn": 10.0, "oh": 1.0, "adv": 1.0, "tv": 1e-3},
    "cmi": {"bn": 1.0, "oh": 1.0, "adv": 0.5, "cr": 0.8},
}
QUICK = ("zskt", "dfq", "deepinversion")
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in WEIGHTS]
ALL = ("ssdkd", *WEIGHTS, "real_small")
COMPILED = "/jax/core/compile/backend_compile_duration"


def configured(name):
    """A tiny run with a method: three rounds, of which the first makes images only."""
    cfg = tiny.make_config(synthesis__flip=False, synthesis__shift=0, teacher__shift=0)
    cfg = presets.apply(cfg, name)
    fields = {"schedule__rounds": 3, "schedule__warmup": 1, "schedule__distill_steps": 2, "synthesis__latent": 6}
    return tiny.config_fields(cfg, synthesis__inner_steps=min(cfg.synthesis.inner_steps, 2), **fields)


def job_of(name, variables, axis="devices"):
    return build.job(configured(name), tiny.INPUTS, tiny.teacher_network(axis), variables, axis, given_images())


def given_images():
    return np.asarray(255 * tiny.images(3, 24), np.uint8)


def seen_by_the_teacher(variables, x):
    """numpy: the BatchNorm's input [B, h, w, c], the classifier's [B, F] and the logits of the tiny network."""
    p, stats = variables["params"], variables["batch_stats"]["BatchNorm_0"]
    h = tiny.before_batch_norm(variables, x)
    stats, norm = (jax.tree.map(np.asarray, tree) for tree in (stats, p["BatchNorm_0"]))
    scaled = (h - stats["mean"]) / np.sqrt(np.asarray(stats["var"], np.float64) + 1e-5)
    a = np.tanh(scaled * norm["scale"] + norm["bias"]).reshape(len(h), -1)
    return h, a, a @ np.asarray(p["Dense_0"]["kernel"], np.float64) + np.asarray(p["Dense_0"]["bias"])


def batch_norm_term(variables, h, blend=lambda mean, var: (mean, var)):
    stats = variables["batch_stats"]["BatchNorm_0"]
    mean, var = blend(h.mean((0, 1, 2)), h.var((0, 1, 2)))
    return np.linalg.norm(mean - stats["mean"]) + np.linalg.norm(var - stats["var"])


@functools.cache
def inverted(name):
    """A method's loss on a first batch: (terms, their slopes along a random direction, total, images, work, ...)."""
    variables = tiny.teacher_variables()
    job = job_of(name, variables, axis=None)
    learner = tiny.teacher_network().init(jax.random.key(1))

    @jax.jit
    def run(key):
        state, ones = job.method.init(key), functools.partial(jax.tree.map, jnp.ones_like)
        known = {field: ones(state[field]) for field in ("past", "memory") if field in state}
        state = state.replace(round=state.round + 2, **known)
        work = job.method.synthesis.begin(state, jax.random.fold_in(key, 1))

        def loss(params):
            total, aux = job.method.synthesis.loss(params, work, variables, learner)
            return {"total": total, "x": aux.images, **aux.metrics}

        at = work.params
        along = jax.tree.map(lambda leaf: jax.random.normal(jax.random.fold_in(key, leaf.size), leaf.shape), at)
        values, slopes = jax.jvp(loss, (at,), (along,))
        return values, slopes, work

    values, slopes, work = run(jax.random.key(0))
    total, x, _ = (values.pop(name) for name in ("total", "x", "inversion"))
    return values, slopes, float(total), x, work, variables, learner


@pytest.mark.parametrize("name", EACH)
def test_the_loss_has_the_published_weights_and_every_term_pulls(name):
    terms, slopes, total, x, *_ = inverted(name)
    assert x.shape == (tiny.BATCH, *tiny.SHAPE)
    assert (float(x.min()) >= 0.0 and float(x.max()) <= 1.0) or name == "deepinversion"
    assert terms.keys() == WEIGHTS[name].keys()
    assert total == pytest.approx(sum(WEIGHTS[name][term] * float(value) for term, value in terms.items()), rel=1e-5)
    for term in terms:
        assert np.isfinite(slopes[term]), term
        assert abs(float(slopes[term])) > 1e-5, term


@pytest.mark.parametrize("name", EACH)
def test_each_term_is_numpys(name):
    terms, _, _, x, work, variables, learner = inverted(name)
    h, a, t = seen_by_the_teacher(variables, x)
    s = seen_by_the_teacher(learner, x)[2]
    p, agree = tiny.softmax(t), t.argmax(-1) == s.argmax(-1)
    assert agree.any()
    mean, m = p.mean(0), (tiny.softmax(t / 3) + tiny.softmax(s / 3)) / 2
    targets = t.argmax(-1) if name in ("dafl", "dfq") else np.asarray(work.targets)
    masked_kl = -(agree * tiny.kl(t, s)).mean()
    js = sum(0.5 * (q * np.log(q / m)).sum(-1) for q in (tiny.softmax(t / 3), tiny.softmax(s / 3)))
    adv = {"zskt": -tiny.kl(t, s).mean(), "dfad": -np.abs(t - s).mean(), "dfq": -tiny.kl(t, s).mean()}
    smoothed = (lambda mu, v: (0.1 * mu + 0.9, 0.1 * v + 0.9)) if name == "fast_dfkd_2" else (lambda *moments: moments)
    expected = {
        "bn": batch_norm_term(variables, h, smoothed),  # the statistics of earlier rounds are ones here
        "oh": -np.log(p[np.arange(len(p)), targets]).mean(),
        "adv": adv.get(name, 1 - js.mean() if name == "deepinversion" else masked_kl),
        "balance": (mean * np.log(mean)).sum(),
        "activation": -np.abs(a).mean(),
        "tv": total_variation(np.asarray(x, np.float64)),
        "cr": contrastive(work, variables, x, h) if name == "cmi" else None,
    }
    for term, value in terms.items():
        assert float(value) == pytest.approx(float(expected[term]), rel=2e-3), term


def total_variation(x):
    steps = (x[:, :, 1:] - x[:, :, :-1], x[:, 1:] - x[:, :-1])
    diagonals = (x[:, 1:, 1:] - x[:, :-1, :-1], x[:, 1:, :-1] - x[:, :-1, 1:])
    return sum(np.sqrt((d**2).sum()) for d in (*steps, *diagonals))


def contrastive(work, variables, x, h):
    """CMI's term in numpy, against the batch's other images and the memory."""
    local = seen_by_the_teacher(variables, cmi.local_views(augment.resized_crop(0.25), work.key, x, None))[0]
    head = jax.tree.map(lambda w: np.asarray(w, np.float64), work.params.head)

    def project(features):
        hidden = np.maximum(features @ head["Dense_0"]["kernel"] + head["Dense_0"]["bias"], 0)
        out = hidden @ head["Dense_1"]["kernel"] + head["Dense_1"]["bias"]
        return out / np.linalg.norm(out, axis=-1, keepdims=True)

    assert bool(work.present.all())
    keys = project(np.concatenate([h.mean((1, 2)), np.asarray(work.negatives)]))
    p = tiny.softmax(project(local.mean((1, 2))) @ keys.T / 0.2)
    return -np.log(p[np.arange(len(x)), np.arange(len(x))]).mean()


def test_pixels_stay_where_the_image_is_valid():
    tx = deepinversion.adam_on_pixels(5.0, (0.4,), (0.3,))
    z = jnp.zeros((2, 3, 3, 1))
    state = tx.init(z)
    updates, state = tx.update(jnp.ones_like(z).at[0].set(-1.0), state, z)
    x = deepinversion.pixels((0.4,), (0.3,)).apply({}, z + updates)
    np.testing.assert_allclose(x[0], 1.0, atol=1e-6)
    np.testing.assert_allclose(x[1], 0.0, atol=1e-6)


def test_the_memory_forgets_its_oldest_first():
    memory = cmi.Memory(features=jnp.zeros((5, 1)), entered=jnp.zeros((), jnp.int32))
    for number in (1.0, 2.0, 3.0):
        memory = cmi.remember(memory, jnp.full((2, 1), number))
    np.testing.assert_array_equal(memory.features[:, 0], [3, 1, 2, 2, 3])
    assert int(memory.entered) == 6


def test_presets_keep_the_students_steps_and_name_the_nearest():
    base = defaults.default()
    steps = build.student_steps(base)
    for name in presets.PRESETS:
        planned = build.student_steps(presets.apply(defaults.default(), name))
        assert steps <= planned <= 1.25 * steps, name


def test_without_hints_ssdkd_is_itself_and_other_methods_see_logits_alone():
    hinted = tiny.config_fields(defaults.default(), student__regression=3.0)
    alone = presets.apply(hinted.copy_and_resolve_references(), "ssdkd_logits")
    assert alone == presets.apply(defaults.default(), "ssdkd")
    seen = {name: presets.apply(hinted.copy_and_resolve_references(), name).student for name in presets.PRESETS}
    assert [name for name in seen if seen[name].regression] == ["ssdkd", "real", "real_small"]
    assert [name for name in seen if seen[name].attention] == ["zskt"]


@pytest.mark.parametrize(("name", "batch"), [("ssdkd", 32), ("ssdkd_logits", 32), ("dfq", 64), ("cmi", 64)])
def test_methods_of_others_have_one_batch_size_for_images_and_student(name, batch):
    config = defaults.default()
    config.synthesis.batch = 32
    config = presets.apply(config, name)
    config.student.batch = 64  # as the command line may set it, behind the preset
    assert build.resolved(config).synthesis.batch == batch


@pytest.mark.parametrize(
    ("pair", "adv", "oh"),
    [("resnet34_resnet18", 1.33, 0.5), ("vgg11_resnet18", 1.0, 0.5), ("wrn40_2_wrn16_1", 1.1, 0.4)],
)
def test_what_follows_from_other_fields_follows_from_their_last_values(pair, adv, oh):
    chosen = recipes.cifar("cifar10", f"{pair},fast_dfkd_5")
    follows = build.resolved(chosen).synthesis
    assert (follows.adv, follows.oh, follows.lr_meta, follows.batch) == (adv, oh, 3e-3 * 5, 256)
    assert (follows.flip, follows.shift) == (True, 4)  # as the teacher's data
    chosen.synthesis.update(lr_generator=1e-3, inner_steps=7, oh=0.9)
    chosen.teacher.update(model="vgg8", shift=2)
    follows = build.resolved(chosen).synthesis
    assert (follows.adv, follows.oh, follows.shift) == (1.0, 0.9, 2)
    assert follows.lr_meta == pytest.approx(7e-3)
    assert build.resolved(build.resolved(chosen)) == build.resolved(chosen)


def test_an_unknown_preset_is_an_error_with_the_nearest():
    with pytest.raises(ValueError, match=r"method = 'daffl' is not one of ssdkd, .*; did you mean 'dafl'"):
        presets.apply(defaults.default(), "daffl")


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_builds_and_its_round_can_be_traced(name, teacher_variables):
    job = job_of(name, teacher_variables, axis=None)
    state = jax.eval_shape(job.method.init, jax.random.key(0))
    work = jax.eval_shape(job.method.synthesis.begin, state, jax.random.key(1))
    student = jax.eval_shape(job.network.init, jax.random.key(2))
    after, metrics = jax.eval_shape(job.method.synthesis.step, work, teacher_variables, student)
    assert jax.tree.structure(after) == jax.tree.structure(work)
    assert ("confidence" in metrics) == (name in ("ssdkd", "ssdkd_logits"))


def test_unknown_methods_and_missing_pieces_are_one_sentence(teacher_variables):
    network = tiny.teacher_network(None)
    for fields, sentence in (
        (
            {"method__name": "generative", "synthesis__bn": 0.0, "synthesis__oh": 0.0, "synthesis__adv": 0.0},
            "Every term of the inversion loss is off; give one of bn, oh, adv, balance, activation a weight",
        ),
        ({"method__name": "magic"}, "method.name = 'magic' is not one of cmi, deepinversion, fast_dfkd"),
        ({"method__name": "given"}, "method.name = 'given' distils on given images, but none"),
        (
            {"method__name": "generative", "generative__divergence": "l3"},
            "generative.divergence = 'l3' is not one of kl, l1",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            build.job(tiny.make_config(**fields), tiny.INPUTS, network, teacher_variables, None)


def test_given_images_fill_the_buffer_and_are_no_constant_of_a_program(teacher_variables):
    job, images = job_of("real_small", teacher_variables), given_images()
    traced = jax.make_jaxpr(lambda seed: loop.init(job.method, job.network, job.tx, seed))(0)
    assert max((np.size(constant) for constant in traced.consts), default=0) < images.size
    buffer = parallel.to_host(parallel.to_devices(tiny.first_state(job))).method.buffer
    np.testing.assert_array_equal(buffer.shards.rows.images[: len(images)], images)
    assert not buffer.shards.rows.images[len(images) :].any()
    np.testing.assert_array_equal(buffer.index.label, np.zeros(len(images)))


def test_given_images_are_shown_with_what_the_teacher_sees_in_them(teacher_variables):
    job, images = job_of("real_small", teacher_variables, axis=None), given_images()
    shown = jax.jit(job.method.preview)(tiny.first_state(job).method, teacher_variables, jax.random.key(0))
    assert {x.tobytes() for x in np.asarray(shown.images)} <= {x.tobytes() for x in images}
    p = np.asarray(jax.nn.softmax(job.teacher.apply(teacher_variables, shown.images / jnp.float32(255))))
    np.testing.assert_array_equal(shown.label, p.argmax(-1))
    np.testing.assert_allclose(shown.confidence, p.max(-1), rtol=1e-5)


def rounds(name, variables, upto, folder=None):
    """(host state, metrics of each round, programs compiled by its end), from and to a checkpoint in `folder`."""
    job = job_of(name, variables)
    first, teacher = tiny.first_state(job), parallel.to_devices(variables)
    programs = loop.compile_round(job.method, job.step, job.plan, parallel.to_devices(first), teacher)
    if folder is not None:
        _, first, _ = checkpoint.restore(folder, first) or (0, first, {})
    history, compiled, marks = [], [], []
    listen = lambda event, duration, **_: compiled.append(event) if event == COMPILED else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listen)

    def on_round(number, state, metrics):
        history.append(metrics)
        marks.append(len(compiled))

    state, _ = loop.run(
        programs, job.plan._replace(rounds=upto), parallel.to_devices(first), teacher, tiny.clock, on_round
    )
    jax.monitoring.unregister_event_duration_listener(listen)
    host = parallel.to_host(state)
    if folder is not None:
        checkpoint.save(folder, upto, host, {})
    return host, history, marks


@pytest.mark.eight_devices
@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_one_device_and_two_run_alike_compile_once_and_resume(name, teacher_variables, tmp_path):
    ended = {}
    for count in (1, 2):
        with pytest.MonkeyPatch.context() as patch:
            tiny.use_devices(patch, count)
            ended[count] = rounds(name, teacher_variables, 3)
            if count == 2:
                rounds(name, teacher_variables, 2, tmp_path)
                resumed = rounds(name, teacher_variables, 3, tmp_path)
    for _, history, marks in ended.values():
        assert len(set(marks)) == 1
        assert ["distillation" in metrics for metrics in history] == [False, True, True]
    for alone, split in zip(ended[1][1], ended[2][1], strict=True):
        for metric, value in alone.items():
            assert split[metric] == pytest.approx(value, rel=2e-2, abs=1e-3), metric
    assert tiny.tree_equal(resumed[0], ended[2][0])
    assert int(ended[1][0].student.step) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_batches_and_pictures_have_the_promised_shapes(name, teacher_variables):
    job = job_of(name, teacher_variables, axis=None)
    state = tiny.synthesize(job, tiny.first_state(job), teacher_variables)
    batch = jax.jit(job.method.sample)(state.method, teacher_variables, jnp.int32(0), jax.random.key(0))
    assert batch.images.shape == (tiny.BATCH, *tiny.SHAPE)
    assert batch.teacher_logits.shape == (tiny.BATCH, tiny.CLASSES)
    assert batch.weights.shape == batch.slots.shape == (tiny.BATCH,)
    assert 0.0 <= float(batch.images.min()) <= float(batch.images.max()) <= 1.0
    shown = jax.jit(job.method.preview)(state.method, teacher_variables, jax.random.key(0))
    rows = shown.label >= 0
    assert shown.images.dtype == jnp.uint8
    assert shown.images.shape[1:] == tiny.SHAPE
    assert rows.any()
    assert (np.asarray(shown.label)[rows] < tiny.CLASSES).all()
    made = job.method.images_made(10, 40)
    expected = {"real_small": 0, "dafl": 10 * tiny.BATCH + 40 * tiny.BATCH}
    assert made == expected.get(name, made)
    assert made or name == "real_small"
