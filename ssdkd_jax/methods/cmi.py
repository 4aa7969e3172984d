"""CMI (Fang et al., IJCAI 2021): images that a small head can tell from each other and from all made before.

The generator begins each round anew. The contrastive term compares the teacher's channel means, over all BatchNorms,
of two views of an image; those of the images of earlier rounds, from a memory of fixed size, are further negatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ssdkd_jax import augment, generator, inversion, settings, teacher, terms
from ssdkd_jax.engine import parallel
from ssdkd_jax.errors import InputError, gathered
from ssdkd_jax.methods import Problem, bank, peer_losses, pool
from ssdkd_jax.models import observe
from ssdkd_jax.settings import setting
from ssdkd_jax.types import Array, Key, Method, Metrics, ModelState, Network, Synthesis, Variables, Work

LOCAL_AREA = 0.25
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "cmi": {
        **bank.PRESET,
        "synthesis.inner_steps": 200,
        "synthesis.latent": 256,
        "synthesis.width": 64,
        "synthesis.lr_generator": 1e-3,
        "synthesis.lr_latent": 1e-3,
        "synthesis.bn": 1.0,
        "synthesis.oh": 1.0,
        "synthesis.adv": 0.5,
        "schedule.distill_steps": 400,
        "schedule.warmup": 0,
    }
}


@settings.section("cmi")
class Contrast:
    """The contrastive term, as its CIFAR-10 script has it."""

    contrast: float = setting(0.8, "weight of the contrastive term", least=0)
    temperature: float = setting(0.2, "of its softmax", least=0.01, most=1000)
    negatives: int = setting(4096, "features of earlier images drawn each round", least=1)
    memory: int = setting(40960, "features of earlier images kept, at most", least=1)
    head: int = setting(256, "size of the head's two layers", least=1)


@dataclass(frozen=True)
class Settings(bank.Settings):
    """What CMI reads of a config."""

    generator: generator.Settings
    latents: inversion.Latents
    contrast: Contrast


class Head(nn.Module):
    """Two layers, to a feature of L2 norm 1: [B, F] -> [B, size]."""

    size: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        x = nn.relu(nn.Dense(self.size)(features))
        x = nn.Dense(self.size)(x)
        return x / optax.safe_norm(x, 1e-12, axis=-1, keepdims=True)


@chex.dataclass(frozen=True)
class Memory:
    """Teacher features [M, F] of earlier images, and how many have entered, int32 []."""

    features: Array
    entered: Array


@chex.dataclass(frozen=True)
class State(pool.State):
    """A pool's, with the head's parameters and optimiser state, and the memory."""

    head: Any
    head_opt_state: Any
    memory: Memory


@chex.dataclass(frozen=True)
class ContrastiveWork(Work):
    """An inversion's, with the memory's features [M, F] of this round, and whether each is there, bool [M]."""

    negatives: Array
    present: Array


def make(s: Settings, problem: Problem) -> Method:
    """CMI as a `Method`."""
    tx, head = s.generator.adam(), Head(s.contrast.head)
    network, features, each = gathered(
        lambda: s.generator.network(problem.inputs.image_shape, problem.axis, problem.compute),
        lambda: feature_count(problem.teacher, problem.inputs.image_shape),
        lambda: loss_terms(s, head, problem),
    )
    optimisers = inversion.Trained(tx, s.latents.adam(), s.generator.adam())
    recipe, start = s.recipe(each, optimisers), generator.sequential(tx)
    base = bank.make(network, start, (s.generator.latent,), recipe, s.student_views(), problem)
    slots = max(min(s.contrast.memory, problem.rounds * s.synthesis.batch), s.synthesis.batch)

    def init(key: Key) -> State:
        key_pool, key_head = jax.random.split(key)
        params = head.init(key_head, jnp.zeros((1, features), jnp.float32))["params"]
        memory = Memory(features=jnp.zeros((slots, features), jnp.float32), entered=jnp.zeros((), jnp.int32))
        head_opt_state = optimisers.head.init(params)
        return State(**base.init(key_pool), head=params, head_opt_state=head_opt_state, memory=memory)

    drawn = min(s.contrast.negatives, slots)
    synthesis = contrastive_synthesis(base.synthesis, network, start, drawn, problem)
    return base._replace(init=init, synthesis=synthesis)


def contrastive_synthesis(
    base: Synthesis, network: Network, start: generator.Start, drawn: int, problem: Problem
) -> Synthesis:
    """`base` with a new generator and the held head; the features of what was kept enter the memory.

    Args:
        drawn: how many of the memory's features serve as negatives.
    """

    def begin(state: State, key: Key) -> ContrastiveWork:
        key_pool, key_generator, key_negatives = jax.random.split(key, 3)
        work = base.begin(state.replace(generator=start.init(network.init(key_generator))), key_pool)
        memory = state.memory
        filled = jnp.minimum(memory.entered, memory.features.shape[0])
        rows = jax.random.randint(key_negatives, (drawn,), 0, jnp.maximum(filled, 1), jnp.int32)
        work = work.replace(
            params=work.params._replace(head=state.head), opt_state=work.opt_state._replace(head=state.head_opt_state)
        )
        return ContrastiveWork(**work, negatives=memory.features[rows], present=jnp.full(drawn, filled > 0))

    def finish(
        work: ContrastiveWork, state: State, teacher_variables: Variables, student: ModelState, key: Key
    ) -> tuple[State, Metrics]:
        inputs = teacher.observe(problem.teacher, teacher_variables, work.best_images).norm_inputs
        features = parallel.all_rows(observe.instance_means(inputs), problem.axis)
        state, metrics = base.finish(work, state, teacher_variables, student, key)
        memory, (head, opt_state) = remember(state.memory, features), (work.params.head, work.opt_state.head)
        return state.replace(memory=memory, head=head, head_opt_state=opt_state), metrics

    return base._replace(begin=begin, finish=finish)


def remember(memory: Memory, features: Array) -> Memory:
    """The features [B, F] in the memory, over the oldest once it is full."""
    slots = (memory.entered + jnp.arange(features.shape[0], dtype=jnp.int32)) % memory.features.shape[0]
    return Memory(
        features=memory.features.at[slots].set(features), entered=memory.entered + jnp.int32(features.shape[0])
    )


def loss_terms(s: Settings, head: Head, problem: Problem) -> list[terms.Term]:
    """bn * BN match + oh * CE + adv * adversarial + cr * contrastive (Fang et al. 2021).

    The query is the local view of an image, its key the view that the other terms take; no gradient goes through keys.
    """
    axis, local = problem.axis, augment.resized_crop(LOCAL_AREA)

    def contrast(o: terms.Observation) -> Array:
        project = partial(head.apply, {"params": o.params.head})
        views = local_views(local, o.work.key, o.images, axis)
        queries = teacher.observe(problem.teacher, o.teacher_variables, views).norm_inputs
        positives = parallel.all_rows(jax.lax.stop_gradient(observe.instance_means(o.teacher.norm_inputs)), axis)
        keys = jax.lax.stop_gradient(project(jnp.concatenate([positives, o.work.negatives])))
        rows = parallel.local_rows(jnp.arange(positives.shape[0]), axis)
        present = jnp.concatenate([jnp.ones(positives.shape[0], bool), o.work.present])
        queries = project(observe.instance_means(queries))
        return peer_losses.contrastive(queries, keys, rows, present, s.contrast.temperature)

    usual = terms.usual_terms(s.weights.allowed(problem.has_batch_norm), problem.task)
    return [*usual, terms.Term("cr", s.contrast.contrast, contrast)]


def local_views(view: augment.View, key: Array, images: Array, axis: str | None) -> Array:
    """The second view of each image, [B, H, W, D].

    Args:
        key: key data of the step, the same on all devices.
    """
    return inversion.random_views(view, inversion.step_keys(key).term, images, axis)


def feature_count(network: Network, image_shape: tuple[int, int, int]) -> int:
    """F: channels of all BatchNorms of a network.

    Raises:
        ValueError: where it has none.
    """

    def inputs(key: Key) -> list[Array]:
        return teacher.observe(network, network.init(key), jnp.zeros((1, *image_shape), jnp.float32)).norm_inputs

    count = sum(x.shape[-1] for x in jax.eval_shape(inputs, jax.random.key(0)))
    if not count:
        raise InputError("CMI compares the inputs of the teacher's BatchNorms, but the teacher has none; use another.")
    return count
