"""The wiring of inversion, replay buffer and sampler that SSD-KD and the methods with a bank share.

Each station is a file of its own; what they are to do comes in as values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from ssdkd_jax import augment, inversion, replay_buffer, sampler, smoothing, teacher
from ssdkd_jax.engine import parallel
from ssdkd_jax.generator import GeneratorState, Start
from ssdkd_jax.methods import Problem, newcomers
from ssdkd_jax.replay_buffer import Buffer, Index, Rows
from ssdkd_jax.types import Array, Batch, Key, Method, Metrics, ModelState, Preview, Synthesis, Variables, Work


class Pieces(NamedTuple):
    """What a pool is made of.

    Attributes:
        generator: the network.
        start: how it persists over rounds.
        latents: (key, targets) -> z of the next batch, over all devices.
        recipe: how a batch is inverted.
        slots: N.
        eviction: what keeps a slot in the buffer.
        sampler: which slots the student sees.
        beta: student step -> exponent of the importance weights.
        views: what the student sees of them.
    """

    generator: inversion.Network
    start: Start
    latents: Callable[[Key, Array], Array]
    recipe: inversion.Recipe
    slots: int
    eviction: replay_buffer.Eviction
    sampler: sampler.Sampler
    beta: optax.Schedule
    views: newcomers.Views


@chex.dataclass(frozen=True)
class State:
    """What a pool remembers between rounds.

    Attributes:
        generator: of the next round.
        buffer: the images.
        past: BatchNorm statistics of the rounds before, as of `recipe.smoothing`.
        sampler: the sampler's state.
        round: int32 [], syntheses completed.
    """

    generator: GeneratorState
    buffer: Buffer
    past: smoothing.Statistics
    sampler: Any
    round: Array


def make(p: Pieces, problem: Problem, synthesis: Synthesis | None = None) -> Method:
    """The method of these pieces.

    Args:
        synthesis: None inverts by `p.recipe`.
    """
    return Method(
        init=make_init(p, problem),
        synthesis=synthesis or make_synthesis(p, problem),
        sample=make_sample(p, problem),
        feedback=make_feedback(p, problem.axis),
        distillation_loss=problem.task.distillation_loss,
        preview=make_preview(problem.axis),
        images_made=lambda rounds, _: rounds * p.recipe.batch,
    )


def make_init(p: Pieces, problem: Problem) -> Callable[[Key], State]:
    """key -> State with an empty buffer."""

    def rows(key: Key) -> Rows:
        x, seeds = jnp.zeros((1, *problem.inputs.image_shape), jnp.uint8), jnp.zeros(1, jnp.uint32)
        answers = newcomers.view_answers(p.views, problem, problem.teacher.init(key), seeds, x)
        return newcomers.rows(x, seeds, answers, p.views.cached)

    def init(key: Key) -> State:
        key_generator, key_sampler = jax.random.split(key)
        example = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(rows, key))
        return State(
            generator=p.start.init(p.generator.init(key_generator)),
            buffer=replay_buffer.init(p.slots, parallel.padded(p.slots), example),
            past=p.recipe.smoothing.init(),
            sampler=p.sampler.init(key_sampler),
            round=jnp.zeros((), jnp.int32),
        )

    return init


def make_synthesis(p: Pieces, problem: Problem) -> Synthesis:
    """Ask for classes that the buffer lacks, invert, and put the best images in the least worthy slots."""
    task, axis, batch = problem.task, problem.axis, p.recipe.batch
    networks = inversion.Networks(p.generator, problem.teacher, problem.student)
    loss = inversion.make_loss(p.recipe, networks, task, axis)
    describe = newcomers.make_describe(p.views, problem)

    def begin(state: State, key: Key) -> Work:
        key_targets, key_z, key_views = jax.random.split(key, 3)
        class_counts = replay_buffer.class_counts(state.buffer.index, task.classes)
        targets = task.targets(key_targets, p.recipe.modulation.ask(class_counts, batch), batch)
        return inversion.begin(
            p.recipe,
            state.generator,
            p.start.open(state.generator),
            p.latents(key_z, targets),
            targets,
            class_counts,
            state.round,
            state.past,
            key_views,
            image_shape=problem.inputs.image_shape,
            axis=axis,
        )

    def finish(
        work: Work, state: State, teacher_variables: Variables, student: ModelState, key: Key
    ) -> tuple[State, Metrics]:
        index, rows = describe(work.best_images, state.round, teacher_variables, student, key)
        slots = slots_to_fill(p, task.classes, state, index)
        slots = jnp.where(jnp.isfinite(work.best_loss), slots, parallel.padded(p.slots))  # else no image was made
        buffer = replay_buffer.put(state.buffer, slots, index, rows, axis)
        closed = p.start.close(state.generator, work.generator_variables, work.opt_state.generator, work.summed)
        past = p.recipe.smoothing.finish(work.smoothing)
        state = state.replace(generator=closed, buffer=buffer, past=past, round=state.round + 1)
        return state, replay_buffer.summary(buffer.index, task.classes)

    step = inversion.make_step(loss, p.recipe.optimisers, axis)
    return Synthesis(
        begin, step, finish, p.recipe.inner_steps, loss, lambda work: work.best_images, lambda work: work.targets
    )


def make_sample(p: Pieces, problem: Problem) -> Callable[[State, Variables, Array, Key], Batch]:
    """(state, teacher variables, student step, key) -> Batch, drawn by the sampler."""
    axis, batch, (view, cached, mixup) = problem.axis, problem.student_batch, p.views

    def sample(state: State, teacher_variables: Variables, student_step: Array, key: Key) -> Batch:
        key_slots, key_views, key_mixup = jax.random.split(key, 3)
        index = state.buffer.index
        logits = p.sampler.logits(state.sampler, index, student_step)
        log_pi = sampler.log_probabilities(logits, index.occupied)
        slots = sampler.draw(key_slots, log_pi, batch)
        weights = sampler.importance_weights(log_pi, slots, jnp.asarray(p.beta(student_step), jnp.float32))
        rows = replay_buffer.take(state.buffer, slots, axis)
        view_indices = parallel.local_rows(jax.random.randint(key_views, (batch,), 0, cached or 2**16, jnp.int32), axis)
        x = teacher.seeds_to_views(view, rows.seeds, view_indices, augment.to_float(rows.images))
        unblended = jnp.ones(batch, bool)
        if mixup:
            x, unblended = augment.mixup(key_mixup, parallel.all_rows(x, axis), mixup(student_step))
            x = parallel.local_rows(x, axis)
        if cached:
            answers = rows.logits, rows.hints
            f_t, hints = jax.vmap(lambda kept, v: jax.tree.map(lambda c: c[v], kept))(answers, view_indices)
        else:
            f_t, hints = problem.hint.observe(problem.teacher.apply, teacher_variables, x)
        weights = parallel.local_rows(weights, axis)
        return Batch(images=x, teacher_logits=f_t, weights=weights, slots=slots, unblended=unblended, hints=hints)

    return sample


def make_feedback(p: Pieces, axis: str | None) -> Callable[[State, Batch, Array, Array], State]:
    """(state, batch, gaps [B], student step) -> state: the sampler learns, and gaps are refreshed.

    A blend tells nothing of either image's gap, so that both leave it out.
    """

    def feedback(state: State, batch: Batch, gaps: Array, student_step: Array) -> State:
        gaps, index = parallel.all_rows(gaps, axis), state.buffer.index
        learnt = p.sampler.learn(state.sampler, index, batch.slots, gaps, batch.unblended, student_step)
        index = replay_buffer.set_gaps(index, batch.slots, gaps, batch.unblended, student_step)
        return state.replace(sampler=learnt, buffer=state.buffer.replace(index=index))

    return feedback


def make_preview(axis: str | None) -> Callable[[State, Variables, Key], Preview]:
    """(state, teacher variables, key) -> this device's slots of the buffer."""

    def preview(state: State, teacher_variables: Variables, key: Key) -> Preview:
        del teacher_variables, key
        index, images = state.buffer.index, state.buffer.shards.rows.images
        unused = images.shape[0] * parallel.device_count(axis) - index.label.shape[0]
        label = jnp.pad(index.label, (0, unused), constant_values=replay_buffer.EMPTY)
        confidence = jnp.pad(index.confidence, (0, unused))
        return Preview(
            images=images, label=parallel.local_rows(label, axis), confidence=parallel.local_rows(confidence, axis)
        )

    return preview


def slots_to_fill(p: Pieces, classes: int, state: State, entering: Index) -> Array:
    """The slots that the images which enter take: int32 [B]."""
    index, modulate = state.buffer.index, p.recipe.modulation
    phi = modulate.phi(replay_buffer.class_counts(index, classes), index.label, index.confidence)
    worth = replay_buffer.worth(index, phi, p.eviction.epsilon, state.round, p.eviction.half_life)
    crowd = jnp.zeros(p.slots, jnp.int32)
    if modulate.level_classes:
        crowd = replay_buffer.crowding(index, worth, entering.label, classes)
    return replay_buffer.least_worth(index, worth, crowd, entering.label.shape[0])
