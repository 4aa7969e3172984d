"""The inversion loss and its gradients, and which of the inner steps' images are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from ssdkd_jax import augment, inversion, models, modulation, smoothing, terms
from ssdkd_jax.tasks import classification
from ssdkd_jax.types import Trained, Work

WEIGHTS = terms.Weights(bn=2.0, oh=0.5, adv=1.5)
COUNTS = jnp.array([6, 3, 1])
AS_IS = augment.make(False, 0)


def phi_of(difficult, diverse=True):
    return modulation.Settings(diversity=diverse, difficulty=difficult).make()


def work_of(z, variables):
    return Work(
        params=Trained(variables["params"], z),
        opt_state=Trained((), ()),
        statistics={name: value for name, value in variables.items() if name != "params"},
        targets=jnp.arange(z.shape[0]) % tiny.CLASSES,
        class_counts=COUNTS,
        rounds=jnp.int32(3),
        key=jax.random.key_data(jax.random.key(5)),
        summed=(),
        best_loss=jnp.array(jnp.inf),
        best_images=jnp.zeros((z.shape[0], *tiny.SHAPE)),
        smoothing=(),
    )


@pytest.fixture(scope="module")
def problem(teacher_variables):
    """(loss maker, work, teacher variables, student variables)."""
    generator = models.bind(models.Generator(tiny.SHAPE, 2), (6,))
    network = tiny.teacher_network()
    student = network.init(jax.random.key(1))
    task = classification.make(tiny.CLASSES, 4.0)

    def make(modulated, weights=WEIGHTS, view=AS_IS):
        networks, each = inversion.Networks(generator, network, network), terms.usual_terms(weights, task)
        recipe = inversion.Recipe(8, 1, each, Trained((), (), ()), view, modulated, smoothing.none())
        return inversion.make_loss(recipe, networks, task, None)

    work = work_of(jax.random.normal(jax.random.key(2), (8, 6)), generator.init(jax.random.key(3)))
    return make, work, teacher_variables, student, network


def differentiate(loss, problem):
    _, work, teacher, student, _ = problem
    return jax.jit(jax.grad(lambda params: loss(params, work, teacher, student)[0]))(work.params)


def test_loss_is_the_weighted_sum_of_its_terms_over_the_generated_images(problem):
    make, work, teacher, student, network = problem
    total, (x, _, _, metrics) = jax.jit(make(phi_of(True)))(work.params, work, teacher, student)
    f_t, f_s = network.apply(teacher, x), network.apply(student, x)
    p = tiny.softmax(f_t)
    of_target = p[np.arange(8), np.asarray(work.targets)]
    w = (1 - np.asarray(COUNTS)[p.argmax(-1)] / 10) * 1.5 * (1 - of_target) ** 2
    w = np.minimum(w / w.mean(), 5.0)
    oh = np.mean(w * -np.log(of_target))
    agree = np.asarray(f_t).argmax(-1) == np.asarray(f_s).argmax(-1)
    adv = np.mean(w * agree * -tiny.kl(f_t, f_s))
    assert agree.any()
    assert float(metrics["oh"]) == pytest.approx(oh, rel=1e-4)
    assert float(metrics["adv"]) == pytest.approx(adv, rel=1e-3)
    h = tiny.before_batch_norm(teacher, x)
    stats = teacher["batch_stats"]["BatchNorm_0"]
    bn = np.linalg.norm(h.mean((0, 1, 2)) - stats["mean"]) + np.linalg.norm(h.var((0, 1, 2)) - stats["var"])
    assert float(metrics["bn"]) == pytest.approx(bn, rel=1e-4)
    assert float(total) == pytest.approx(2.0 * bn + 0.5 * oh + 1.5 * adv, rel=1e-4)
    assert float(metrics["confidence"]) == pytest.approx(of_target.mean(), rel=1e-5)


@pytest.mark.parametrize("argument", ["generator", "latents"])
def test_gradient_is_the_finite_difference_of_the_loss(problem, argument):
    make, work, teacher, student, _ = problem
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), work.params[:2])
        loss = make(modulation.off())
        value = jax.jit(lambda p, z: loss(Trained(p, z), work, teacher, student)[0])
        which = ["generator", "latents"].index(argument)
        gradient = jax.jit(jax.grad(value, argnums=which))(*wide)
        rng = np.random.default_rng(0)
        direction = jax.tree.map(lambda x: rng.normal(size=x.shape), wide[which])
        step = 1e-6

        def moved(sign):
            arguments = list(wide)
            arguments[which] = jax.tree.map(lambda x, d: x + sign * step * d, wide[which], direction)
            return float(value(*arguments))

        slope = (moved(1) - moved(-1)) / (2 * step)
        inner = sum(np.sum(g * d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
    assert abs(slope) > 1e-2
    assert float(inner) == pytest.approx(slope, rel=1e-4)


def test_phi_acts_as_a_constant_in_the_gradient(problem):
    make, work, teacher, student, network = problem
    modulated = phi_of(True)
    weights = terms.Weights(bn=0.0, oh=1.0, adv=1.0)
    images = jax.jit(make(modulated))(work.params, work, teacher, student)[1].images
    p = tiny.softmax(network.apply(teacher, images))
    of_target = jnp.asarray(p[np.arange(8), np.asarray(work.targets)], jnp.float32)
    frozen = modulated.phi(COUNTS, jnp.asarray(p.argmax(-1)), of_target)
    constant = modulated._replace(phi=lambda *_: frozen)
    moving, fixed = (differentiate(make(each, weights), problem) for each in (modulated, constant))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5), moving, fixed)
    assert np.ptp(frozen) > 0.1 * np.max(frozen)


def test_without_weight_the_adversarial_term_needs_no_student(problem):
    make, work, teacher, student, _ = problem
    loss = make(modulation.off(), terms.Weights(bn=2.0, oh=0.5, adv=0.0))
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), student)
    total, aux = jax.jit(loss)(work.params, work, teacher, broken)
    whole = jax.jit(make(modulation.off()))(work.params, work, teacher, student)[1].metrics
    assert float(total) == pytest.approx(2.0 * float(whole["bn"]) + 0.5 * float(whole["oh"]), rel=1e-5)
    assert "adv" not in aux.metrics
    assert float(whole["adv"]) != 0.0


def test_teacher_and_student_see_one_view_of_the_images_and_the_images_are_kept_unseen(problem):
    make, work, teacher, student, network = problem

    def reversed_view(key, image):
        return image[::-1] * (jax.random.uniform(key) < 0.5)

    plain, viewed = make(modulation.off()), make(modulation.off(), view=reversed_view)
    x, seen = (jax.jit(loss)(work.params, work, teacher, student)[1] for loss in (plain, viewed))
    np.testing.assert_array_equal(x.images, seen.images)
    keys = jax.random.split(inversion.step_keys(work.key).views, 8)
    views = jnp.stack([reversed_view(key, image) for key, image in zip(keys, x.images, strict=True)])
    p = tiny.softmax(network.apply(teacher, views))
    expected = -np.log(p[np.arange(8), np.asarray(work.targets)]).mean()
    assert float(seen.metrics["oh"]) == pytest.approx(expected, rel=1e-4)
    assert float(x.metrics["oh"]) != pytest.approx(expected, rel=1e-2)


def test_each_inner_step_takes_new_views(single):
    job, state, teacher = single
    work = jax.jit(job.method.synthesis.begin)(state.method, jax.random.key(0))
    moved, _ = jax.jit(job.method.synthesis.step)(work, teacher, state.student.variables)
    assert not np.array_equal(work.key, moved.key)


@pytest.mark.parametrize("rate", [0.3, 1.2])
def test_the_images_of_the_lowest_loss_are_kept(rate):
    def loss(params, work, teacher, student):
        a = params.generator["a"]
        value = 0.5 * a**2 + 0.0 * params.latents.sum()
        return value, inversion.Auxiliary(jnp.zeros((2, *tiny.SHAPE)) + a, {}, (), {"inversion": value})

    tx = optax.sgd(rate * 2)  # 0.6: |a| falls each step; 2.4: it grows
    work = work_of(jnp.zeros((2, 6)), {"params": {"a": jnp.array(3.0)}})
    work = work.replace(opt_state=Trained(*map(tx.init, work.params)), summed={"a": jnp.array(0.0)})
    step = jax.jit(inversion.make_step(loss, Trained(tx, tx, tx), None))
    a, seen = 3.0, []
    for _ in range(4):
        seen.append(a)
        work, _ = step(work, {}, {})
        a -= 2 * rate * a
    best = min(seen, key=abs)
    assert best == (seen[-1] if rate == 0.3 else seen[0])
    np.testing.assert_allclose(work.best_images, best, rtol=1e-5)
    np.testing.assert_allclose(work.best_loss, 0.5 * best**2, rtol=1e-5)
    np.testing.assert_allclose(work.params.generator["a"], a, rtol=1e-5)
    np.testing.assert_allclose(work.summed["a"], sum(seen), rtol=1e-5)  # the gradient is a itself


def test_inner_steps_lower_the_loss_and_move_both_latents_and_generator(single):
    job, state, teacher = single
    work = first = jax.jit(job.method.synthesis.begin)(state.method, jax.random.key(0))
    step, history = jax.jit(job.method.synthesis.step), []
    for _ in range(15):
        work, metrics = step(work, teacher, state.student.variables)
        history.append(float(metrics["inversion"]))
    assert min(history[-3:]) < history[0]
    assert not np.allclose(first.params.latents, work.params.latents)
    assert not tiny.tree_equal(first.params.generator, work.params.generator)
    assert float(work.best_loss) == min(history)


def test_a_round_asks_the_classes_that_the_buffer_lacks(single):
    job, state, _ = single
    label = jnp.full(tiny.SLOTS, 2, jnp.int32)
    full = state.method.buffer.replace(index=state.method.buffer.index.replace(label=label))
    work = jax.jit(job.method.synthesis.begin)(state.method.replace(buffer=full), jax.random.key(0))
    assert np.bincount(work.targets, minlength=3).tolist() == [8, 8, 0]


def test_a_teacher_without_batch_norm_has_no_bn_term_and_still_inverts():
    network = models.bind(tiny.Linear(tiny.CLASSES), tiny.SHAPE)
    variables = network.init(jax.random.key(0))
    with pytest.warns(UserWarning, match="no BatchNorm"):
        job = tiny.build.job(tiny.make_config(student__attention=0.0), tiny.INPUTS, network, variables, None)
    state = tiny.first_state(job)
    work = jax.jit(job.method.synthesis.begin)(state.method, jax.random.key(0))
    work, metrics = jax.jit(job.method.synthesis.step)(work, variables, state.student.variables)
    assert "bn" not in metrics
    expected = 0.5 * metrics["oh"] + metrics["adv"]
    assert float(metrics["inversion"]) == pytest.approx(float(expected), rel=1e-5)
