"""DAFL, ZSKT, DFAD and DFQ: a generator in a game with the student, and no memory; four settings of one method.

| method | generator's loss |
|---|---|
| DAFL (Chen et al., ICCV 2019) | oh + balance + activation |
| ZSKT (Micaelli & Storkey, NeurIPS 2019) | adv, a KL; the student also imitates the teacher's attention |
| DFAD (Fang et al., 2019) | adv, an L1 distance of logits, which the student minimises |
| DFQ (Choi et al., CVPR workshops 2020) | adv + bn + oh + balance |

A round is one or a few generator steps, then some student steps, each on images made afresh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from ssdkd_jax import augment, generator, inversion, losses, modulation, settings, smoothing, teacher, terms
from ssdkd_jax.engine import parallel
from ssdkd_jax.errors import InputError, gathered
from ssdkd_jax.methods import LOGITS, Problem, peer_losses, unstored
from ssdkd_jax.settings import setting
from ssdkd_jax.types import Array, Batch, Key, Method, Metrics, ModelState, Network, Preview, Synthesis, Variables, Work

DIVERGENCES = {"kl": losses.kl_divergence, "l1": peer_losses.l1}


def _preset(distill_steps: int, **synthesis: float) -> dict[str, Any]:
    """What the four share: one generator step a round on unaugmented images, and every term off but those given."""
    weights = {"bn": 0.0, "oh": 0.0, "adv": 0.0, "latent": 256, **synthesis}
    return {
        **LOGITS,
        "student.temperature": 1.0,
        "synthesis.batch": None,  # that of the student
        "synthesis.inner_steps": 1,
        "synthesis.width": 64,
        "synthesis.lr_generator": 1e-3,
        "synthesis.flip": False,
        "synthesis.shift": 0,
        **{f"synthesis.{name}": value for name, value in weights.items()},
        "generative.balance": 0.0,
        "generative.activation": 0.0,
        "generative.divergence": "kl",
        "schedule.distill_steps": distill_steps,
        "schedule.warmup": 0,
    }


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "dafl": _preset(5, oh=1.0, latent=512) | {"generative.balance": 20.0, "generative.activation": 1e-3},
    "zskt": _preset(10, adv=1.0) | {"student.attention": 250.0},
    "dfad": _preset(5, adv=1.0) | {"generative.divergence": "l1"},
    "dfq": _preset(10, bn=1.0, oh=1.0, adv=1.0) | {"generative.balance": 20.0},
}


@settings.section("generative")
class Game:
    """What the four methods differ in beside the weights of the usual terms."""

    balance: float = setting(0.0, "weight of the batch's class balance", least=0)
    activation: float = setting(0.0, "weight of the teacher's last features", least=0)
    divergence: str = setting(
        "kl", "what the generator maximises; l1 is also what the student then minimises", choices=tuple(DIVERGENCES)
    )


@dataclass(frozen=True)
class Settings:
    """What a memoryless method reads of a config."""

    synthesis: inversion.Settings
    weights: terms.Weights
    generator: generator.Settings
    views: augment.Settings
    game: Game


@chex.dataclass(frozen=True)
class State:
    """All that such a method remembers: its generator, and how many rounds it has played, int32 []."""

    generator: generator.GeneratorState
    round: Array


def make(s: Settings, problem: Problem) -> Method:
    """A memoryless method as a `Method`.

    Raises:
        ValueError: for an unknown divergence, or where every term is off.
    """
    divergence = settings.chosen(DIVERGENCES, "generative.divergence", s.game.divergence)
    tx, task = s.generator.adam(), problem.task
    network, each = gathered(
        lambda: s.generator.network(problem.inputs.image_shape, problem.axis, problem.compute),
        lambda: loss_terms(s, divergence, problem),
    )
    start, inner = generator.sequential(tx), s.synthesis
    optimisers = inversion.Trained(tx, optax.set_to_zero(), optax.identity())
    recipe = inner.recipe(each, optimisers, modulation.off(), smoothing.none())
    return Method(
        init=lambda key: State(generator=start.init(network.init(key)), round=jnp.zeros((), jnp.int32)),
        synthesis=make_synthesis(recipe, start, network, s.generator.latent, problem),
        sample=make_sample(s, network, problem),
        feedback=lambda state, *_: state,
        distillation_loss=peer_losses.l1 if divergence is peer_losses.l1 else task.distillation_loss,
        preview=make_preview(s, network, problem),
        images_made=lambda rounds, steps: rounds * inner.inner_steps * inner.batch + steps * problem.student_batch,
    )


def make_synthesis(
    recipe: inversion.Recipe, start: generator.Start, network: Network, latent: int, problem: Problem
) -> Synthesis:
    """The generator's steps, on one batch of latents a round."""
    networks = inversion.Networks(network, problem.teacher, problem.student)
    loss = inversion.make_loss(recipe, networks, problem.task, problem.axis)

    def begin(state: State, key: Key) -> Work:
        key_z, key_views = jax.random.split(key)
        return inversion.begin(
            recipe,
            state.generator,
            start.open(state.generator),
            jax.random.normal(key_z, (recipe.batch, latent), jnp.float32),
            jnp.zeros(recipe.batch, jnp.int32),
            jnp.zeros(problem.task.classes, jnp.int32),
            state.round,
            recipe.smoothing.init(),
            key_views,
            image_shape=problem.inputs.image_shape,
            axis=problem.axis,
        )

    def finish(
        work: Work, state: State, teacher_variables: Variables, student: ModelState, key: Key
    ) -> tuple[State, Metrics]:
        del teacher_variables, student, key
        closed = start.close(state.generator, work.generator_variables, work.opt_state.generator, work.summed)
        return State(generator=closed, round=state.round + 1), {}

    step = inversion.make_step(loss, recipe.optimisers, problem.axis)
    return Synthesis(begin, step, finish, recipe.inner_steps, loss, lambda work: work.best_images)


def loss_terms(s: Settings, divergence: Callable[[Array, Array], Array], problem: Problem) -> list[terms.Term]:
    """The five terms; the class target is the teacher's own argmax.

    Raises:
        InputError: where a term asks for layers that the teacher has not.
    """
    task, weights = problem.task, s.weights.allowed(problem.has_batch_norm)
    if s.game.activation:
        jax.eval_shape(partial(dense_features, problem), jax.random.key(0))

    def certainty(o: terms.Observation) -> Array:
        return task.target_loss(o.teacher.logits, task.class_probabilities(o.teacher.logits).argmax(-1))

    def balance(o: terms.Observation) -> Array:
        return peer_losses.class_balance(task.class_probabilities(o.teacher.logits), problem.axis)

    return [
        terms.batch_norm_term(weights.bn),
        terms.Term("oh", weights.oh, certainty),
        terms.Term("adv", weights.adv, lambda o: -divergence(o.teacher.logits, o.student_logits)),
        terms.Term("balance", s.game.balance, balance),
        terms.Term(
            "activation", s.game.activation, lambda o: peer_losses.activation(last_features(o.teacher.dense_inputs))
        ),
    ]


def dense_features(problem: Problem, key: Key) -> Array:
    """`last_features` of a teacher with fresh weights, for an image."""
    image = jnp.zeros((1, *problem.inputs.image_shape), jnp.float32)
    return last_features(teacher.observe(problem.teacher, problem.teacher.init(key), image).dense_inputs)


def last_features(features: Sequence[Array]) -> Array:
    """The input of the classifier.

    Raises:
        ValueError: where the teacher has no Dense layer.
    """
    if not features:
        raise InputError(
            "The activation term reads the input of a Dense layer, but the teacher has none; switch it off."
        )
    return features[-1]


def make_sample(s: Settings, network: Network, problem: Problem) -> Callable[[State, Variables, Array, Key], Batch]:
    """(state, teacher variables, student step, key) -> Batch, made for this step alone."""
    axis, batch, view = problem.axis, problem.student_batch, s.views.view()

    def sample(state: State, teacher_variables: Variables, student_step: Array, key: Key) -> Batch:
        key_z, key_views = jax.random.split(key)
        x = images(network, state, key_z, batch, s.generator.latent, axis)
        keys = parallel.local_rows(jax.random.split(key_views, batch), axis)
        return unstored.batch(problem, teacher_variables, jax.vmap(view)(keys, x))

    return sample


def images(network: Network, state: State, key: Key, count: int, latent_size: int, axis: str | None) -> Array:
    """This device's part of `count` new images; BatchNorm takes their own statistics, as in the generator's steps."""
    z = parallel.local_rows(jax.random.normal(key, (count, latent_size), jnp.float32), axis)
    return network.train(state.generator.variables, z)[0]


def make_preview(s: Settings, network: Network, problem: Problem) -> Callable[[State, Variables, Key], Preview]:
    """(state, teacher variables, key) -> `unstored.previewed` new images over all devices."""
    axis = problem.axis

    def preview(state: State, teacher_variables: Variables, key: Key) -> Preview:
        x = images(network, state, key, unstored.previewed(axis), s.generator.latent, axis)
        return unstored.preview(problem.task, x, problem.teacher.apply(teacher_variables, x))

    return preview
