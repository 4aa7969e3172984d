"""SSD-KD (Liu et al., CVPR 2024): a small buffer, kept balanced and difficult, drawn by priority.

Wiring only: each station is a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from ssdkd_jax import augment, generator, inversion, modulation, replay_buffer, sampler, smoothing, teacher
from ssdkd_jax.engine import parallel
from ssdkd_jax.hints import Hint
from ssdkd_jax.replay_buffer import Buffer, Index, Rows
from ssdkd_jax.types import Array, Batch, Key, Method, Metrics, ModelState, Preview, Synthesis, Task, Variables


class Settings(NamedTuple):
    """The pieces of SSD-KD, each a value.

    Attributes:
        image_shape: (H, W, D).
        slots: N.
        synthesis_batch, student_batch: global batches.
        inner_steps: inversion steps per round.
        latent_size: Z.
        class_code: how far the class shifts the mean of z.
        weights: of the inversion terms.
        bn_past: share of earlier rounds in the matched BatchNorm statistics; 0 matches those of each batch alone.
        bn_average: over which of these rounds.
        tx, tx_z: inner optimisers of generator and latents.
        start: how the generator persists over rounds.
        phi: the modulating function.
        phi_clip: upper bound of a normalised phi in the inversion loss.
        jitter: the view that teacher and student take of an image during inversion.
        ask: (class_counts, batch) -> class probabilities asked of the next batch.
        level_classes: whether eviction takes from the largest classes first.
        half_life: rounds in which a slot's worth halves; 0 for never.
        epsilon: added to the gap in a slot's worth, in nats.
        sampler: which slots the student sees.
        beta: student step -> exponent of the importance weights.
        view: augmentation.
        views: V, cached teacher views per slot; 0 runs the teacher in the loop.
        mixup: student step -> share of the images that are blended with others; None for none, as with cached views.
        hint: what the student is shown of the teacher beside its logits.
    """

    image_shape: tuple[int, int, int]
    slots: int
    synthesis_batch: int
    student_batch: int
    inner_steps: int
    latent_size: int
    class_code: float
    weights: inversion.Weights
    bn_past: float
    bn_average: smoothing.Average
    tx: optax.GradientTransformation
    tx_z: optax.GradientTransformation
    start: generator.Start
    phi: modulation.Phi
    phi_clip: float
    jitter: augment.View
    ask: Callable[[Array, int], Array]
    level_classes: bool
    half_life: float
    epsilon: float
    sampler: sampler.Sampler
    beta: optax.Schedule
    view: augment.View
    views: int
    mixup: optax.Schedule | None
    hint: Hint


@chex.dataclass(frozen=True)
class State:
    """What SSD-KD remembers between rounds.

    Attributes:
        generator: generator.GeneratorState.
        buffer: Buffer.
        past: BatchNorm statistics of the rounds before.
        sampler: the sampler's state.
        round: int32 [], syntheses completed.
    """

    generator: generator.GeneratorState
    buffer: Buffer
    past: smoothing.Statistics
    sampler: Any
    round: Array


def make(s: Settings, models: inversion.Models, task: Task, axis: str | None) -> Method:
    """SSD-KD as a `Method`."""
    return Method(
        init=make_init(s, models),
        synthesis=make_synthesis(s, models, task, axis),
        sample=make_sample(s, models, axis),
        feedback=make_feedback(s, axis),
        preview=make_preview(axis),
        images_made=lambda rounds, _: rounds * s.synthesis_batch,
    )


def make_init(s: Settings, models: inversion.Models) -> Callable[[Key], State]:
    """key -> State with an empty buffer."""

    def rows(key: Key) -> Rows:
        x, seeds = jnp.zeros((1, *s.image_shape), jnp.uint8), jnp.zeros(1, jnp.uint32)
        return make_rows(s, x, seeds, view_answers(s, models, models.teacher.init(key), seeds, x))

    def init(key: Key) -> State:
        key_generator, key_sampler = jax.random.split(key)
        example = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(rows, key))
        return State(
            generator=s.start.init(models.generator.init(key_generator)),
            buffer=replay_buffer.init(s.slots, parallel.padded(s.slots), example),
            past=smoothing.nothing(models.teacher, s.image_shape),
            sampler=s.sampler.init(key_sampler),
            round=jnp.zeros((), jnp.int32),
        )

    return init


def make_synthesis(s: Settings, models: inversion.Models, task: Task, axis: str | None) -> Synthesis:
    """Ask for classes that the buffer lacks, invert, and put the best images in the least worthy slots."""
    loss = inversion.make_loss(models, task, s.weights, s.phi, s.phi_clip, s.jitter, axis)
    describe = make_describe(s, models, task, axis)

    def begin(state: State, key: Key) -> inversion.Work:
        key_targets, key_z, key_views = jax.random.split(key, 3)
        class_counts = replay_buffer.class_counts(state.buffer.index, task.classes)
        targets = task.targets(key_targets, s.ask(class_counts, s.synthesis_batch), s.synthesis_batch)
        work = inversion.begin(
            state.generator,
            s.start.open(state.generator),
            targets,
            generator.latents(key_z, task.target_codes(targets), s.latent_size, s.class_code),
            class_counts,
            key_views,
            image_shape=s.image_shape,
            tx_z=s.tx_z,
            axis=axis,
        )
        return work.replace(smoothing=smoothing.begin(state.past, state.round, s.bn_past, s.bn_average))

    def finish(
        work: inversion.Work, state: State, teacher_variables: Variables, student: ModelState, key: Key
    ) -> tuple[State, Metrics]:
        index, rows = describe(work.best_images, state.round, teacher_variables, student, key)
        slots = slots_to_fill(s, task, state, index)
        slots = jnp.where(jnp.isfinite(work.best_loss), slots, parallel.padded(s.slots))  # else no image was made
        buffer = replay_buffer.put(state.buffer, slots, index, rows, axis)
        start = s.start.close(state.generator, work.variables, work.opt_state, work.summed)
        past = smoothing.finish(work.smoothing)
        state = state.replace(generator=start, buffer=buffer, past=past, round=state.round + 1)
        return state, replay_buffer.summary(buffer.index, task.classes)

    return Synthesis(begin, inversion.make_step(loss, s.tx, s.tx_z, axis), finish, s.inner_steps, loss)


def make_describe(s: Settings, models: inversion.Models, task: Task, axis: str | None) -> Callable:
    """(images, round, teacher variables, student, key) -> newcomers as they will stand in the buffer.

    That is their index over all devices, and the rows of this one.
    """

    def describe(
        images: Array, number: Array, teacher_variables: Variables, student: ModelState, key: Key
    ) -> tuple[Index, Rows]:
        stored = augment.to_uint8(images)
        x = augment.to_float(stored)
        seeds = parallel.local_rows(jax.random.bits(key, (s.synthesis_batch,)), axis)
        answers = view_answers(s, models, teacher_variables, seeds, stored)
        f_t, f_s = answers[0][:, 0], models.student.apply(student.variables, x)
        probabilities = task.class_probabilities(f_t)
        own = (probabilities.argmax(-1), probabilities.max(-1), task.gap(f_t, f_s))
        label, confidence, gap = (parallel.all_rows(value, axis) for value in own)
        index = Index(
            label=label.astype(jnp.int32),
            confidence=confidence,
            gap=gap,
            filled=jnp.full_like(label, number),
            drawn=jnp.full_like(label, student.step),
        )
        return index, make_rows(s, stored, seeds, answers)

    return describe


def view_answers(
    s: Settings, models: inversion.Models, teacher_variables: Variables, seeds: Array, images: Array
) -> tuple[Array, Any]:
    """The teacher's logits [B, V, C] and hints [B, V, ...] on the fixed views of uint8 images; at least one view."""
    answer = partial(s.hint.observe, models.teacher.apply, teacher_variables)
    return teacher.view_answers(answer, s.view, seeds, augment.to_float(images), max(s.views, 1))


def make_rows(s: Settings, images: Array, seeds: Array, answers: tuple[Array, Any]) -> Rows:
    """What the buffer keeps of newcomers: hints in half precision."""
    logits, hints = jax.tree.map(lambda x: x[:, : s.views], answers)
    return Rows(images=images, seeds=seeds, logits=logits, hints=jax.tree.map(lambda x: x.astype(jnp.float16), hints))


def make_sample(s: Settings, models: inversion.Models, axis: str | None) -> Callable[..., Batch]:
    """(state, teacher variables, student step, key) -> Batch, drawn by the sampler."""

    def sample(state: State, teacher_variables: Variables, student_step: Array, key: Key) -> Batch:
        key_slots, key_views, key_mixup = jax.random.split(key, 3)
        index = state.buffer.index
        logits = s.sampler.logits(state.sampler, index, student_step)
        log_pi = sampler.log_probabilities(logits, index.occupied)
        slots = sampler.draw(key_slots, log_pi, s.student_batch)
        weights = sampler.importance_weights(log_pi, slots, s.beta(student_step))
        rows = replay_buffer.take(state.buffer, slots, axis)
        numbers = parallel.local_rows(draw_views(key_views, s), axis)
        x = teacher.seeds_to_views(s.view, rows.seeds, numbers, augment.to_float(rows.images))
        if s.mixup:
            x = parallel.local_rows(augment.mixup(key_mixup, parallel.all_rows(x, axis), s.mixup(student_step)), axis)
        if s.views:
            f_t, hints = jax.vmap(lambda cached, v: jax.tree.map(lambda c: c[v], cached))(
                (rows.logits, rows.hints), numbers
            )
        else:
            f_t, hints = s.hint.observe(models.teacher.apply, teacher_variables, x)
        weights = parallel.local_rows(weights, axis)
        return Batch(images=x, teacher_logits=f_t, weights=weights, slots=slots, hints=hints)

    return sample


def make_feedback(s: Settings, axis: str | None) -> Callable[..., State]:
    """(state, batch, gaps [B], student step) -> state: the sampler learns, and the gaps are refreshed."""

    def feedback(state: State, batch: Batch, gaps: Array, student_step: Array) -> State:
        gaps, index = parallel.all_rows(gaps, axis), state.buffer.index
        learnt = s.sampler.learn(state.sampler, index, batch.slots, gaps, student_step)
        index = replay_buffer.set_gaps(index, batch.slots, gaps, student_step)
        return state.replace(sampler=learnt, buffer=state.buffer.replace(index=index))

    return feedback


def make_preview(axis: str | None) -> Callable[..., Preview]:
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


def slots_to_fill(s: Settings, task: Task, state: State, newcomers: Index) -> Array:
    """The slots that the newcomers take: int32 [B]."""
    index = state.buffer.index
    counts = replay_buffer.class_counts(index, task.classes)
    phi = s.phi(counts, index.label, index.confidence)
    worth = replay_buffer.worth(index, phi, s.epsilon, state.round, s.half_life)
    crowd = jnp.zeros(s.slots, jnp.int32)
    if s.level_classes:
        crowd = replay_buffer.crowding(index, worth, newcomers.label, task.classes)
    return replay_buffer.least_worth(index, worth, crowd, newcomers.label.shape[0])


def draw_views(key: Key, s: Settings) -> Array:
    """A view number for each row of the student's batch: one of the V cached, or any without a cache."""
    return jax.random.randint(key, (s.student_batch,), 0, s.views or 2**16)
