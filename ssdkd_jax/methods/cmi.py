"""CMI (Fang et al., IJCAI 2021): images that a small head can tell from each other and from all made before.

The generator begins each round anew. The contrastive term compares the teacher's channel means, over all BatchNorms,
of two views of an image; those of the images of earlier rounds, from a memory of fixed size, are further negatives.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ssdkd_jax import augment, generator, inversion, teacher
from ssdkd_jax.engine import parallel
from ssdkd_jax.methods import bank, peer_losses, ssdkd
from ssdkd_jax.models import observe
from ssdkd_jax.types import Array, Key, Method, Metrics, ModelState, Network, Synthesis, Task, Variables


class Contrast(NamedTuple):
    """The contrastive term.

    Attributes:
        weight: of the term.
        temperature: of its softmax.
        negatives: how many of the memory's features are drawn each round.
        memory: slots of the memory, which the newest images enter in turn.
        head: size of the head's two layers.
        local: the second view of an image.
    """

    weight: float
    temperature: float
    negatives: int
    memory: int
    head: int
    local: augment.View


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


def with_head(network: Network, contrast: Contrast, features: int) -> Network:
    """The generator with the contrastive head beside it, under 'params' as 'generator' and 'head'."""
    head = Head(contrast.head)

    def init(key: Key) -> Variables:
        key_generator, key_head = jax.random.split(key)
        variables = network.init(key_generator)
        own = head.init(key_head, jnp.zeros((1, features)))["params"]
        return {**variables, "params": {"generator": variables["params"], "head": own}}

    def bare(variables: Variables) -> Variables:
        return {**variables, "params": variables["params"]["generator"]}

    def train(variables: Variables, z: Array) -> tuple[Array, Variables]:
        images, updated = network.train(bare(variables), z)
        return images, {**updated, "params": variables["params"]}

    return Network(init, lambda variables, z: network.apply(bare(variables), z), train)


def adam_on_both(lr: float) -> optax.GradientTransformation:
    """Adam (.5, .999), with a state of its own for the generator and for the head."""
    adam = partial(optax.adam, lr, b1=0.5)
    return optax.partition({"generator": adam(), "head": adam()}, {"generator": "generator", "head": "head"})


def feature_count(network: Network, image_shape: tuple[int, int, int]) -> int:
    """F: channels of all BatchNorms of a network.

    Raises:
        ValueError: where it has none.
    """

    def means(key: Key) -> list[Array]:
        call = partial(network.apply, network.init(key), jnp.zeros((1, *image_shape)))
        return observe.layers(call, nn.BatchNorm)[1]

    count = sum(x.shape[-1] for x in jax.eval_shape(means, jax.random.key(0)))
    if not count:
        raise ValueError("CMI compares the inputs of the teacher's BatchNorms, but the teacher has none; use another.")
    return count


def make(s: ssdkd.Settings, c: Contrast, models: inversion.Models, task: Task, axis: str | None) -> Method:
    """CMI as a `Method`.

    Args:
        s: from `bank.settings`, with `adam_on_both` as `tx`.
    """
    features = feature_count(models.teacher, s.image_shape)
    models = models._replace(generator=with_head(models.generator, c, features))
    pool = ssdkd.make(s, models, task, axis)

    def memory(_: Key) -> Memory:
        return Memory(features=jnp.zeros((c.memory, features)), entered=jnp.zeros((), jnp.int32))

    return bank.make(pool, memory, make_synthesis(s, c, pool, models, task, axis))


def make_synthesis(
    s: ssdkd.Settings, c: Contrast, pool: Method, models: inversion.Models, task: Task, axis: str | None
) -> Synthesis:
    """Invert with a new generator and the old head; the features of what was kept enter the memory."""
    loss = make_loss(s, c, models, task, axis)

    def begin(state: bank.State, key: Key) -> inversion.Work:
        key_pool, key_generator, key_negatives = jax.random.split(key, 3)
        held, memory = state.pool.generator, state.own
        start = anew(held, models.generator.init(key_generator), s.tx)
        work = pool.synthesis.begin(state.pool.replace(generator=start), key_pool)
        filled = jnp.minimum(memory.entered, c.memory)
        drawn = jax.random.randint(key_negatives, (c.negatives,), 0, jnp.maximum(filled, 1))
        present = jnp.full(c.negatives, filled > 0)
        return work.replace(extra={"negatives": memory.features[drawn], "present": present})

    def finish(
        work: inversion.Work, state: bank.State, teacher_variables: Variables, student: ModelState, key: Key
    ) -> tuple[bank.State, Metrics]:
        call = partial(models.teacher.apply, teacher_variables, work.best_images)
        _, seen = observe.layers(call, nn.BatchNorm)
        own = remember(state.own, parallel.all_rows(observe.instance_means(seen), axis))
        stored, metrics = pool.synthesis.finish(work, state.pool, teacher_variables, student, key)
        return bank.State(pool=stored, own=own), metrics

    return Synthesis(begin, inversion.make_step(loss, s.tx, s.tx_z, axis), finish, s.inner_steps, loss)


def anew(
    held: generator.GeneratorState, fresh: Variables, tx: optax.GradientTransformation
) -> generator.GeneratorState:
    """A fresh generator and its fresh optimiser state, beside the head that is held and its own."""
    params = {"generator": fresh["params"]["generator"], "head": held.variables["params"]["head"]}
    opt_state = tx.init(params)
    states = {**opt_state.inner_states, "head": held.opt_state.inner_states["head"]}
    return generator.GeneratorState(
        variables={**fresh, "params": params}, opt_state=opt_state._replace(inner_states=states)
    )


def remember(memory: Memory, features: Array) -> Memory:
    """The features [B, F] in the memory, over the oldest once it is full."""
    slots = (memory.entered + jnp.arange(features.shape[0])) % memory.features.shape[0]
    return Memory(
        features=memory.features.at[slots].set(features), entered=memory.entered + jnp.int32(features.shape[0])
    )


def make_loss(s: ssdkd.Settings, c: Contrast, models: inversion.Models, task: Task, axis: str | None) -> Callable:
    """bn * BN match + oh * CE + adv * adversarial + cr * contrastive (Fang et al. 2021); see `inversion.make_step`.

    The query is the local view of an image, its key the view that the other terms see; no gradient goes through keys.
    """
    head = Head(c.head)

    def project(params: Any, features: Array) -> Array:
        return head.apply({"params": params["head"]}, features)

    def loss(
        params: Any, z: Array, work: inversion.Work, teacher_variables: Variables, student_variables: Variables
    ) -> tuple[Array, tuple]:
        x, seen, variables = inversion.generate(models.generator, s.jitter, params, z, work, axis)
        look = partial(teacher.apply_with_moments, models.teacher, teacher_variables, axis=axis)
        (f_t, moments), shared = observe.layers(partial(look, seen), nn.BatchNorm)
        f_s = models.student.apply(student_variables, seen)
        _, local = observe.layers(partial(look, local_view(c.local, work, x, axis)), nn.BatchNorm)

        bn = inversion.match(moments)
        oh = task.target_loss(f_t, work.targets).mean()
        adv = task.adversarial_loss(f_t, f_s).mean()

        queries = project(params, observe.instance_means(local))
        positives = parallel.all_rows(jax.lax.stop_gradient(observe.instance_means(shared)), axis)
        keys = jax.lax.stop_gradient(project(params, jnp.concatenate([positives, work.extra["negatives"]])))
        own = parallel.local_rows(jnp.arange(positives.shape[0]), axis)
        present = jnp.concatenate([jnp.ones(positives.shape[0], bool), work.extra["present"]])
        cr = peer_losses.contrastive(queries, keys, own, present, c.temperature).mean()

        total = s.weights.bn * bn + s.weights.oh * oh + s.weights.adv * adv + c.weight * cr
        return total, (x, variables, {"inversion": total, "bn": bn, "oh": oh, "adv": adv, "cr": cr})

    return loss


def local_view(view: augment.View, work: inversion.Work, images: Array, axis: str | None) -> Array:
    """The second view of each image, [B, H, W, D]."""
    key = jax.random.fold_in(jax.random.wrap_key_data(work.key), 1)
    keys = jax.random.split(key, images.shape[0] * parallel.device_count(axis))
    return jax.vmap(view)(parallel.local_rows(keys, axis), images)
