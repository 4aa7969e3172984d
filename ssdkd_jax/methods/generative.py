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

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ssdkd_jax import augment, generator, inversion, teacher
from ssdkd_jax.engine import parallel
from ssdkd_jax.hints import Hint
from ssdkd_jax.methods import peer_losses
from ssdkd_jax.models import observe
from ssdkd_jax.types import Array, Batch, Key, Method, Metrics, ModelState, Preview, Synthesis, Task, Variables

PREVIEWED = 1000


class Weights(NamedTuple):
    """Weights of the generator's terms; one of weight 0 is off."""

    bn: float
    oh: float
    adv: float
    balance: float
    activation: float


class Settings(NamedTuple):
    """The pieces of a memoryless method.

    Attributes:
        image_shape: (H, W, D).
        synthesis_batch, student_batch: global batches of the two players.
        inner_steps: generator steps per round, on one batch of latents.
        latent_size: Z.
        weights: of the generator's terms.
        divergence: (teacher logits, student logits) -> [B], what the generator maximises.
        hint: what the student is shown of the teacher beside its logits.
        tx: the generator's optimiser.
        jitter: the view that teacher and student take of an image in the generator's loss.
        view: augmentation of the student's images.
    """

    image_shape: tuple[int, int, int]
    synthesis_batch: int
    student_batch: int
    inner_steps: int
    latent_size: int
    weights: Weights
    divergence: Callable[[Array, Array], Array]
    hint: Hint
    tx: optax.GradientTransformation
    jitter: augment.View
    view: augment.View


@chex.dataclass(frozen=True)
class State:
    """All that such a method remembers: its generator."""

    generator: generator.GeneratorState


def make(s: Settings, models: inversion.Models, task: Task, axis: str | None) -> Method:
    """A memoryless method as a `Method`."""
    start = generator.sequential(s.tx)
    return Method(
        init=lambda key: State(generator=start.init(models.generator.init(key))),
        synthesis=make_synthesis(s, start, models, task, axis),
        sample=make_sample(s, models, axis),
        feedback=lambda state, *_: state,
        preview=make_preview(s, models, task, axis),
        images_made=lambda rounds, steps: rounds * s.inner_steps * s.synthesis_batch + steps * s.student_batch,
    )


def make_synthesis(
    s: Settings, start: generator.Start, models: inversion.Models, task: Task, axis: str | None
) -> Synthesis:
    """`s.inner_steps` steps of the generator."""
    loss = make_loss(s, models, task, axis)

    def begin(state: State, key: Key) -> inversion.Work:
        key_z, key_views = jax.random.split(key)
        return inversion.begin(
            state.generator,
            start.open(state.generator),
            jnp.zeros(s.synthesis_batch, jnp.int32),
            jax.random.normal(key_z, (s.synthesis_batch, s.latent_size)),
            jnp.zeros(task.classes),
            key_views,
            image_shape=s.image_shape,
            tx_z=optax.set_to_zero(),
            axis=axis,
        )

    def finish(
        work: inversion.Work, state: State, teacher_variables: Variables, student: ModelState, key: Key
    ) -> tuple[State, Metrics]:
        del teacher_variables, student, key
        return State(generator=start.close(state.generator, work.variables, work.opt_state, work.summed)), {}

    return Synthesis(begin, inversion.make_step(loss, s.tx, optax.set_to_zero(), axis), finish, s.inner_steps, loss)


def make_loss(s: Settings, models: inversion.Models, task: Task, axis: str | None) -> Callable:
    """The weighted sum of the five terms; see `inversion.make_step`. The class target is the teacher's own argmax."""

    def loss(
        params: Any, z: Array, work: inversion.Work, teacher_variables: Variables, student_variables: Variables
    ) -> tuple[Array, tuple]:
        x, seen, variables = inversion.generate(models.generator, s.jitter, params, z, work, axis)
        look = partial(teacher.apply_with_moments, models.teacher, teacher_variables, seen, axis)
        (f_t, moments), features = observe.layers(look, nn.Dense)
        f_s = models.student.apply(student_variables, seen)

        terms = {
            "bn": lambda: inversion.match(moments),
            "oh": lambda: task.target_loss(f_t, task.class_probabilities(f_t).argmax(-1)).mean(),
            "adv": lambda: -s.divergence(f_t, f_s).mean(),
            "balance": lambda: peer_losses.class_balance(task.class_probabilities(f_t), axis),
            "activation": lambda: peer_losses.activation(last(features)).mean(),
        }
        active = {name: term() for name, term in terms.items() if getattr(s.weights, name)}
        total = jnp.sum(jnp.stack([getattr(s.weights, name) * term for name, term in active.items()]))
        return total, (x, variables, {"inversion": total, **active})

    return loss


def last(features: Sequence[Array]) -> Array:
    """The input of the classifier.

    Raises:
        ValueError: where the teacher has no Dense layer.
    """
    if not features:
        raise ValueError(
            "The activation term reads the input of a Dense layer, but the teacher has none; switch it off."
        )
    return features[-1]


def make_sample(s: Settings, models: inversion.Models, axis: str | None) -> Callable[..., Batch]:
    """(state, teacher variables, student step, key) -> Batch, made for this step alone."""

    def sample(state: State, teacher_variables: Variables, student_step: Array, key: Key) -> Batch:
        key_z, key_views = jax.random.split(key)
        x = images(models, state, key_z, s.student_batch, s.latent_size, axis)
        keys = parallel.local_rows(jax.random.split(key_views, s.student_batch), axis)
        x = jax.vmap(s.view)(keys, x)
        f_t, hints = s.hint.observe(models.teacher.apply, teacher_variables, x)
        return Batch(
            images=x,
            teacher_logits=f_t,
            weights=jnp.ones(x.shape[0]),
            slots=jnp.zeros(s.student_batch, jnp.int32),
            hints=hints,
        )

    return sample


def images(models: inversion.Models, state: State, key: Key, count: int, latent_size: int, axis: str | None) -> Array:
    """This device's part of `count` new images; BatchNorm takes their own statistics, as in the generator's steps."""
    z = parallel.local_rows(jax.random.normal(key, (count, latent_size)), axis)
    return models.generator.train(state.generator.variables, z)[0]


def make_preview(s: Settings, models: inversion.Models, task: Task, axis: str | None) -> Callable[..., Preview]:
    """(state, teacher variables, key) -> about `PREVIEWED` new images over all devices."""

    def preview(state: State, teacher_variables: Variables, key: Key) -> Preview:
        count = -(-PREVIEWED // parallel.device_count(axis)) * parallel.device_count(axis)
        x = images(models, state, key, count, s.latent_size, axis)
        probabilities = task.class_probabilities(models.teacher.apply(teacher_variables, x))
        label = probabilities.argmax(-1).astype(jnp.int32)
        return Preview(images=augment.to_uint8(x), label=label, confidence=probabilities.max(-1))

    return preview
