"""The segmentation task against numpy and scikit-learn, and a round of the method with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from sklearn.metrics import confusion_matrix, jaccard_score

from ssdkd_jax import augment, build, checks, models, presets
from ssdkd_jax.engine import evaluation, optimization, parallel, supervised
from ssdkd_jax.tasks import segmentation
from ssdkd_jax.types import Network

C, SHAPE = 4, (6, 5)
TASK = segmentation.make(C, temperature=3.0, presence=0.1)


@pytest.fixture
def logits(rng):
    return rng.normal(0, 2, (3, *SHAPE, C)).astype(np.float32)


@pytest.fixture
def other(rng):
    return rng.normal(0, 2, (3, *SHAPE, C)).astype(np.float32) + 1


def test_losses_are_means_over_the_pixels_of_each_image(logits, other):
    gap = tiny.kl(logits, other).mean((1, 2))
    np.testing.assert_allclose(TASK.gap(logits, other), gap, rtol=1e-4)
    np.testing.assert_allclose(
        TASK.distillation_loss(logits, other), 9 * tiny.kl(logits / 3, other / 3).mean((1, 2)), rtol=1e-4
    )
    agree = logits.argmax(-1) == other.argmax(-1)
    adversarial = -(agree * tiny.kl(logits, other)).mean((1, 2))
    np.testing.assert_allclose(TASK.adversarial_loss(logits, other), adversarial, rtol=1e-4)


def test_target_loss_asks_for_the_likeliest_pixels_alone(logits):
    asked = np.array([2, 0, 3])
    log_p = np.log(tiny.softmax(logits)).reshape(3, -1, C)[np.arange(3), :, asked]
    expected = -np.sort(log_p, axis=1)[:, -3:].mean(1)  # a tenth of 30 pixels
    np.testing.assert_allclose(TASK.target_loss(jnp.asarray(logits), asked), expected, rtol=1e-4)
    gradient = jax.grad(lambda x: TASK.target_loss(x, asked).sum())(jnp.asarray(logits))
    assert (np.abs(gradient).reshape(3, -1, C).max(-1) > 0).sum(1).tolist() == [3, 3, 3]


def test_a_class_that_is_never_predicted_does_not_take_half_of_the_requests():
    asked = np.array([0.5, *[0.05] * 10], np.float32)
    counts = np.bincount(TASK.targets(jax.random.key(0), jnp.asarray(asked), 1100), minlength=11)
    capped = np.array([2 / 11, *[0.05] * 10])
    np.testing.assert_allclose(counts, 1100 * capped / capped.sum(), atol=1.01)
    even = np.bincount(TASK.targets(jax.random.key(0), jnp.full(11, 1 / 11), 1100), minlength=11)
    np.testing.assert_allclose(even, 100, atol=1.01)


def painted(*counts):
    """Logits of an image [1, 10, 10, C] with `counts` pixels of each class, at probability 0.7 where it stands."""
    labels = np.repeat(np.arange(C), counts).reshape(1, 10, 10)
    return np.log(np.where(np.arange(C) == labels[..., None], 0.7, 0.1)).astype(np.float32)


@pytest.mark.parametrize(
    ("counts", "label"),
    [((80, 20, 0, 0), 1), ((80, 5, 15, 0), 2), ((95, 5, 0, 0), 0), ((100, 0, 0, 0), 0), ((0, 10, 30, 60), 1)],
)
def test_an_image_is_of_the_rarest_class_that_covers_a_tenth(counts, label):
    p = np.asarray(TASK.class_probabilities(jnp.asarray(painted(*counts))))
    expected = np.full(C, 0.1)
    expected[label] = 0.7
    np.testing.assert_allclose(p, expected[None], rtol=1e-4)


def test_class_probabilities_sum_to_one_and_peak_at_the_label(logits):
    p = np.asarray(segmentation.class_probabilities(jnp.asarray(logits), presence=0.9))
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)
    share = np.stack([np.bincount(image.argmax(-1).ravel(), minlength=C) for image in logits])
    np.testing.assert_array_equal(p.argmax(-1), share.argmax(-1))  # no class covers 0.9: the one that covers most


def test_scores_of_a_padded_evaluation_are_those_of_scikit_learn(rng):
    """Through eight devices in batches of 8, 8 and 3, a class that is never seen and a tenth of the pixels ignored."""
    images = rng.integers(0, 256, (19, *SHAPE, 1), dtype=np.uint8)
    labels = rng.integers(0, C - 1, (19, *SHAPE)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.1] = augment.UNLABELLED
    answer = np.minimum(images[..., 0] // 80, C - 2)

    def apply(variables, x):
        return 5.0 * jax.nn.one_hot(jnp.minimum(jnp.round(255 * x[..., 0]) // 80, C - 2).astype(int), C)

    network = Network(init=None, apply=apply, train=None)
    found = evaluation.make(network, TASK, images, labels, 8)(parallel.to_devices({"w": jnp.zeros(())}))
    seen = labels != augment.UNLABELLED
    truth, said = labels[seen], answer[seen]
    iou = jaccard_score(truth, said, average=None)
    assert found["miou"] == pytest.approx(iou.mean(), abs=1e-6)
    assert [found[f"iou_{c}"] for c in range(C - 1)] == pytest.approx(iou.tolist(), abs=1e-6)
    assert f"iou_{C - 1}" not in found
    assert found["accuracy"] == pytest.approx((truth == said).mean(), abs=1e-6)
    confusion = TASK.metrics(apply(None, images / np.float32(255)), labels)["confusion"].sum(0)
    np.testing.assert_array_equal(np.asarray(confusion)[: C - 1, : C - 1], confusion_matrix(truth, said))


def test_loss_leaves_out_the_unlabelled_pixels(logits, rng):
    labels = rng.integers(0, C, (3, *SHAPE))
    labels[0, :, 2:], labels[2] = augment.UNLABELLED, augment.UNLABELLED
    log_p = np.log(tiny.softmax(logits))
    of_truth = np.take_along_axis(log_p, np.minimum(labels, C - 1)[..., None], -1)[..., 0]
    expected = [-of_truth[0, :, :2].mean(), -of_truth[1].mean(), 0.0]
    np.testing.assert_allclose(TASK.metrics(logits, labels)["loss"], expected, rtol=1e-4)


def test_scores_of_a_set_without_a_label_are_zero():
    sums = {"confusion": np.zeros((C, C)), "loss": np.zeros(())}
    assert TASK.scores(sums, 1) == {"miou": 0.0, "accuracy": 0.0, "loss": 0.0}


@pytest.mark.parametrize("settings", [(True, 0), (False, 3), (True, 3), (True, 2, 5), (False, 0, 4)])
def test_masks_move_with_their_images(settings, rng):
    """The image shows its own labels, so that the two must stay the same under any view."""
    labels = rng.integers(1, 200, (16, 8, 9), dtype=np.uint8)
    images = jnp.asarray(labels[..., None], jnp.float32)
    view = jax.jit(jax.vmap(augment.with_labels(augment.make(*settings))))
    keys = jax.random.split(jax.random.key(0), 16)
    moved, masks = view(keys, images, labels)
    shown = np.asarray(moved[..., 0])
    np.testing.assert_array_equal(np.where(shown == 0, augment.UNLABELLED, shown), masks)
    np.testing.assert_array_equal(moved, jax.vmap(augment.make(*settings))(keys, images))
    assert not np.array_equal(np.asarray(masks)[:, :4, :4], labels[:, :4, :4])


def test_the_label_of_a_whole_image_stays():
    image, label = augment.with_labels(augment.make(True, 2))(jax.random.key(0), jnp.ones((4, 4, 1)), jnp.array(7))
    assert (image.shape, int(label)) == ((4, 4, 1), 7)


def test_training_on_masks_learns_them_and_not_what_is_unlabelled(rng):
    images = rng.integers(0, 256, (24, *SHAPE, 1), dtype=np.uint8)
    labels = (images[..., 0] > 127).astype(np.uint8)
    labels[:, :2] = augment.UNLABELLED
    network = models.bind(tiny.Pixels(2), (*SHAPE, 1), axis=parallel.AXIS)
    recipe = supervised.Recipe(12, 8, optimization.sgd(0.5, 36, 0.0, 0.1), augment.make(True, 1))
    heard = []
    supervised.fit(
        network,
        segmentation.make(2, 1.0, 0.1),
        recipe,
        parallel.to_devices(optimization.init(network, recipe.tx, jax.random.key(0))),
        images,
        labels,
        jax.random.key(1),
        lambda epoch, state, scores: heard.append(scores),
    )
    assert heard[-1]["miou"] > 0.9
    assert heard[-1]["loss"] < 0.5 * heard[0]["loss"]


INPUTS = build.Inputs(tiny.SHAPE, tiny.CLASSES, (0.4,), (0.3,))


def dense_config(**fields):
    models = {"teacher__model": "tiny:Pixels", "student__model": "tiny:Pixels", "student__attention": 0.0}
    return tiny.make_config(task__name="segmentation", **models, **fields)


def test_a_round_of_the_method_fills_the_buffer_and_teaches_the_student():
    config = dense_config()
    teacher = build.network("tiny:Pixels", INPUTS, None)
    variables = teacher.init(jax.random.key(3))
    job = build.job(config, INPUTS, teacher, variables, axis=None)
    state = tiny.synthesize(job, tiny.first_state(job), variables)
    rows, index = state.method.buffer.shards.rows, state.method.buffer.index
    filled = np.asarray(index.occupied)
    assert filled.sum() == tiny.BATCH
    assert rows.logits.shape[1:] == (config.views.count, *tiny.SHAPE[:2], tiny.CLASSES)
    images, logits = (array[: tiny.SLOTS][filled] for array in (rows.images, rows.logits[:, 0]))
    np.testing.assert_allclose(logits, teacher.apply(variables, augment.to_float(images)), atol=1e-4)
    labels = job.task.class_probabilities(logits).argmax(-1)
    np.testing.assert_array_equal(index.label[filled], labels)

    step = jax.jit(lambda s, b: job.step(s, b))
    batch = jax.jit(job.method.sample)(state.method, variables, state.student.step, jax.random.key(5))
    student, losses = state.student, []
    for _ in range(12):
        student, gaps, metrics = step(student, batch)
        losses.append(float(metrics["distillation"]))
    assert gaps.shape == (tiny.BATCH,)
    assert losses[-1] < 0.8 * losses[0]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("dfq", "fast_dfkd_5")]


@pytest.mark.parametrize("name", ["dfad", "zskt", "deepinversion", *SLOW])
def test_a_round_of_each_other_method_labels_pixels_too(name):
    config = presets.apply(dense_config(), name)
    config = tiny.config_fields(config, synthesis__inner_steps=2, student__attention=0.0, views__count=0)
    teacher = build.network("tiny:Pixels", INPUTS, None)
    variables = teacher.init(jax.random.key(3))
    job = build.job(config, INPUTS, teacher, variables, axis=None)
    state = tiny.synthesize(job, tiny.first_state(job), variables)
    batch = jax.jit(job.method.sample)(state.method, variables, state.student.step, jax.random.key(5))
    _, gaps, metrics = jax.jit(lambda s, b: job.step(s, b))(state.student, batch)
    f_t, f_s = batch.teacher_logits, job.network.train(state.student.variables, batch.images)[0]
    if name == "dfad":
        assert float(metrics["distillation"]) == pytest.approx(np.abs(f_t - f_s).mean(), rel=1e-3)
    assert gaps.shape == (tiny.BATCH,)
    assert np.isfinite(gaps).all()


@pytest.mark.parametrize("name", ["tiny:Tiny", "tiny:Pixels"])
def test_a_model_of_the_other_task_is_one_sentence(name):
    config = dense_config() if name == "tiny:Tiny" else tiny.make_config()
    config.student.model = name
    dense = config.task.name == "segmentation"
    teacher = build.network("tiny:Pixels" if dense else "tiny:Tiny", INPUTS, None)
    variables = jax.eval_shape(teacher.init, jax.random.key(0))
    with pytest.raises(ValueError, match=rf"task\.name = '{config.task.name}' takes logits .* the model '{name}'"):
        checks.check(config, INPUTS, teacher, variables, build.network(name, INPUTS, None))


def test_an_unknown_task_is_an_error_that_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"task\.name = 'depth' is not one of classification, segmentation; did you mean '\w+'"
    ):
        build.task(tiny.make_config(task__name="depth"), 3)
