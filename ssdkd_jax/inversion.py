"""Generator inversion: images that the teacher takes for its training data.

The loss of a batch is a weighted sum of terms; a term is a number per image, or one of the batch. That of SSD-KD is

    bn * BN match + mean_b phi_b (oh * CE_b + adv * adversarial_b)

where the confidence in phi is exp(-CE), the teacher's probability of the asked class: with its
largest probability instead, an image that is surely of another class would have no weight. It is minimised
over the latents z and the generator g for a few inner steps; of all these steps the
images of the lowest loss are kept, as in Fast-DFKD (Fang et al., AAAI 2022). Teacher and
student see a random view of each image, a new one each step (the jitter of DeepInversion,
Yin et al., CVPR 2020): what they answer then depends less on a texture at one place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import optax

from ssdkd_jax import augment, modulation, settings, smoothing, teacher, terms
from ssdkd_jax.engine import optimization, parallel
from ssdkd_jax.errors import InputError
from ssdkd_jax.generator import GeneratorState
from ssdkd_jax.settings import setting
from ssdkd_jax.types import Array, Key, Metrics, Network, Task, Trained, Variables, Work


@settings.section("synthesis")
class Settings:
    """How many images are inverted for how long, and how teacher and student see them."""

    batch: int | None = setting(128, "images made per round; None: the student's batch", least=1)
    inner_steps: int = setting(5, "inversion steps per round", least=1)
    flip: bool | None = setting(False, "teacher and student see them mirrored at random; None: as the teacher's data")
    shift: int | None = setting(0, "and moved by at most this many pixels; None: as the teacher's data", least=0)

    def recipe(
        self,
        each: Sequence[terms.Term],
        optimisers: Trained,
        modulated: modulation.Modulation,
        smoothed: smoothing.Smoothing,
    ) -> Recipe:
        """The recipe of these settings and terms."""
        view = augment.make(self.flip, self.shift)
        return Recipe(self.batch, self.inner_steps, each, optimisers, view, modulated, smoothed)


@settings.section("synthesis")
class Latents:
    """The optimiser of the latents."""

    lr_latent: float = setting(1e-2, "its Adam's learning rate", above=0)

    def adam(self) -> optax.GradientTransformation:
        """Adam (.5, .999)."""
        return optax.adam(self.lr_latent, b1=0.5)


class Networks(NamedTuple):
    """The three networks of inversion; the teacher and the student run in eval mode."""

    generator: Network
    teacher: Network
    student: Network


class StepKeys(NamedTuple):
    """The keys of one step: of the next step's, of the views, and of a term that draws something itself."""

    following: Key
    views: Key
    term: Key


def step_keys(data: Array) -> StepKeys:
    """The keys of a step from its key data, `Work.key`."""
    return StepKeys(*jax.random.split(jax.random.wrap_key_data(data), 3))


class Auxiliary(NamedTuple):
    """What the loss gives beside its value: the images, what changed in passing, each term unweighted."""

    images: Array
    statistics: Variables
    smoothing: smoothing.Scratch | tuple
    metrics: Metrics


class Loss(Protocol):
    """The inversion loss of a batch."""

    def __call__(
        self, params: Trained, work: Work, teacher_variables: Variables, student_variables: Variables
    ) -> tuple[Array, Auxiliary]:
        """(loss [], what it gives besides)."""


class Recipe(NamedTuple):
    """How a batch of images is inverted.

    Attributes:
        batch: global.
        inner_steps: how many.
        terms: of the loss.
        optimisers: of generator, latents and head.
        view: what teacher and student see of an image.
        modulation: what weights the images in the loss.
        smoothing: how the matched statistics depend on earlier rounds.
    """

    batch: int
    inner_steps: int
    terms: Sequence[terms.Term]
    optimisers: Trained
    view: augment.View
    modulation: modulation.Modulation
    smoothing: smoothing.Smoothing


def begin(
    recipe: Recipe,
    state: GeneratorState,
    opt_state: Any,
    z: Array,
    targets: Array,
    class_counts: Array,
    rounds: Array,
    past: smoothing.Statistics,
    key: Key,
    *,
    image_shape: tuple[int, int, int],
    axis: str | None,
) -> Work:
    """The first scratch state.

    Args:
        state: the generator's.
        opt_state: of its inner optimiser.
        z: latents [B, Z] over all devices.
        targets: [B, ...] over all devices.
        past: statistics of earlier rounds, as of `recipe.smoothing`.
    """
    chex.assert_equal_shape_prefix((z, targets), 1)
    z = parallel.local_rows(z, axis)
    params = state.variables["params"]
    return Work(
        params=Trained(params, z),
        opt_state=Trained(opt_state, recipe.optimisers.latents.init(z)),
        statistics={name: value for name, value in state.variables.items() if name != "params"},
        targets=parallel.local_rows(targets, axis),
        class_counts=class_counts,
        rounds=rounds,
        key=jax.random.key_data(key),
        summed=jax.tree.map(jnp.zeros_like, params),
        best_loss=jnp.full((), jnp.inf, jnp.float32),
        best_images=jnp.zeros((z.shape[0], *image_shape), jnp.float32),
        smoothing=recipe.smoothing.begin(past, rounds),
    )


def make_loss(recipe: Recipe, networks: Networks, task: Task, axis: str | None) -> Loss:
    """The weighted sum of the recipe's terms, those of each image weighted by phi.

    A network that no term asks costs nothing under `jax.jit`.

    Raises:
        ValueError: where every term is off.
    """
    active = [term for term in recipe.terms if callable(term.weight) or term.weight]
    if not active:
        names = ", ".join(term.name for term in recipe.terms)
        raise InputError(f"Every term of the inversion loss is off; give one of {names} a weight.")

    def loss(
        params: Trained, work: Work, teacher_variables: Variables, student_variables: Variables
    ) -> tuple[Array, Auxiliary]:
        x, variables = networks.generator.train({**work.statistics, "params": params.generator}, params.latents)
        views = random_views(recipe.view, step_keys(work.key).views, x, axis)
        f_t = teacher.observe(networks.teacher, teacher_variables, views, axis)
        f_s = networks.student.apply(student_variables, views)
        moments, smoothed = recipe.smoothing.smooth(f_t.moments, work.smoothing)

        predicted = task.class_probabilities(f_t.logits).argmax(-1)
        confidence = jnp.exp(-task.target_loss(f_t.logits, work.targets))
        w = recipe.modulation.weights(work.class_counts, predicted, confidence, axis)

        observation = terms.Observation(x, f_t._replace(moments=moments), f_s, params, work, teacher_variables)
        values = {term.name: terms.weighted_mean(term.value(observation), w) for term in active}
        total = sum(term.weight_after(work.rounds) * values[term.name] for term in active)
        statistics = {name: value for name, value in variables.items() if name != "params"}
        metrics = {"inversion": total, **values}
        if recipe.modulation.active:
            metrics["confidence"] = confidence.mean()
        return total, Auxiliary(x, statistics, smoothed, metrics)

    return loss


def random_views(view: augment.View, key: Key, images: Array, axis: str | None) -> Array:
    """A random view of each image [B, H, W, D]; the key is the same on all devices."""
    keys = jax.random.split(key, images.shape[0] * parallel.device_count(axis))
    return jax.vmap(view)(parallel.local_rows(keys, axis), images)


def make_step(
    loss: Loss, optimisers: Trained, axis: str | None
) -> Callable[[Work, Variables, Variables], tuple[Work, Metrics]]:
    """(work, teacher variables, student variables) -> (work, metrics): one inner step on generator, z and head."""

    def step(work: Work, teacher_variables: Variables, student_variables: Variables) -> tuple[Work, Metrics]:
        grads, aux = jax.grad(loss, has_aux=True)(work.params, work, teacher_variables, student_variables)
        shared = parallel.mean((grads.generator, grads.head, aux.statistics, aux.metrics), axis)
        generator, head, statistics, metrics = shared
        grads = Trained(generator, parallel.local_gradient(grads.latents, axis), head)
        parts = zip(optimisers, grads, work.opt_state, work.params, strict=True)
        params, opt_state = zip(*(optimization.descend(*part) for part in parts), strict=True)
        better = metrics["inversion"] < work.best_loss
        found = metrics["inversion"], aux.images, aux.smoothing
        kept = work.best_loss, work.best_images, work.smoothing
        best_loss, best_images, smoothed = jax.tree.map(lambda new, old: jnp.where(better, new, old), found, kept)
        work = work.replace(
            params=Trained(*params),
            opt_state=Trained(*opt_state),
            statistics=statistics,
            key=jax.random.key_data(step_keys(work.key).following),
            summed=jax.tree.map(jnp.add, work.summed, grads.generator),
            best_loss=best_loss,
            best_images=best_images,
            smoothing=smoothed,
        )
        return work, metrics

    return step
