"""Generator inversion: images that the teacher takes for its training data.

The loss of a batch is

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
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from ssdkd_jax import augment, generator, losses, modulation, smoothing, teacher
from ssdkd_jax.engine import parallel
from ssdkd_jax.types import Array, Key, Metrics, Network, Task, Variables


class Weights(NamedTuple):
    """Weights of the inversion terms: BN match, class targets (one-hot), adversarial."""

    bn: float
    oh: float
    adv: float


class Models(NamedTuple):
    """The three networks of inversion; the teacher and the student run in eval mode."""

    generator: Network
    teacher: Network
    student: Network


@chex.dataclass(frozen=True)
class Work:
    """Scratch state of one synthesis; B is this device's part of the batch.

    Attributes:
        z: [B, Z].
        targets: [B], the classes asked for.
        class_counts: [C], n_c of the buffer when the round began.
        key: key data, of the views of the next step.
        variables: of the generator.
        opt_state: of its inner optimiser.
        z_opt_state: of the latents' optimiser.
        summed: gradients of the generator summed over the inner steps.
        best_loss: [], the lowest loss so far.
        best_images: [B, H, W, D], the images that had it.
        smoothing: the matched BatchNorm statistics, of methods that smooth them over rounds.
        extra: what the loss of another method needs besides.
    """

    z: Array
    targets: Array
    class_counts: Array
    key: Array
    variables: Variables
    opt_state: Any
    z_opt_state: Any
    summed: Any
    best_loss: Array
    best_images: Array
    smoothing: smoothing.Smoothing | tuple = ()
    extra: Any = ()


def begin(
    state: generator.GeneratorState,
    opt_state: Any,
    targets: Array,
    z: Array,
    class_counts: Array,
    key: Key,
    *,
    image_shape: tuple[int, int, int],
    tx_z: optax.GradientTransformation,
    axis: str | None,
) -> Work:
    """The first scratch state, from targets [B, ...] and latents z [B, Z] over all devices."""
    z = parallel.local_rows(z, axis)
    return Work(
        z=z,
        targets=parallel.local_rows(targets, axis),
        class_counts=class_counts,
        key=jax.random.key_data(key),
        variables=state.variables,
        opt_state=opt_state,
        z_opt_state=tx_z.init(z),
        summed=jax.tree.map(jnp.zeros_like, state.variables["params"]),
        best_loss=jnp.array(jnp.inf),
        best_images=jnp.zeros((z.shape[0], *image_shape)),
    )


def generate(
    network: Network, view: augment.View, params: Any, z: Array, work: Work, axis: str | None
) -> tuple[Array, Array, Variables]:
    """(images [B, H, W, D], a random view of each, the generator's variables after it)."""
    x, variables = network.train({**work.variables, "params": params}, z)
    keys = jax.random.split(jax.random.wrap_key_data(work.key), x.shape[0] * parallel.device_count(axis))
    return x, jax.vmap(view)(parallel.local_rows(keys, axis), x), variables


def match(moments: Sequence[losses.Moments]) -> Array:
    """The BatchNorm term, []; 0 for a teacher without BatchNorm."""
    return losses.batch_norm_match(moments) if moments else jnp.zeros(())


def make_loss(
    models: Models,
    task: Task,
    weights: Weights,
    phi: modulation.Phi,
    clip: float,
    view: augment.View,
    axis: str | None,
) -> Callable:
    """(params, z, work, teacher variables, student variables) -> (loss, (images, variables, metrics, work.smoothing)).

    The student is run only where `weights.adv` is not 0.
    """

    def agreement(f_t: Array, student_variables: Variables, seen: Array) -> Array:
        if not weights.adv:
            return jnp.zeros(seen.shape[0])
        return task.adversarial_loss(f_t, models.student.apply(student_variables, seen))

    def loss(
        params: Any, z: Array, work: Work, teacher_variables: Variables, student_variables: Variables
    ) -> tuple[Array, tuple]:
        x, seen, variables = generate(models.generator, view, params, z, work, axis)
        f_t, moments = teacher.apply_with_moments(models.teacher, teacher_variables, seen, axis)
        predicted = task.class_probabilities(f_t).argmax(-1)
        ce = task.target_loss(f_t, work.targets)
        confidence = jnp.exp(-ce)
        w = modulation.normalised(phi(work.class_counts, predicted, confidence), clip, axis)

        matched, smoothed = smoothing.smooth(moments, work.smoothing)

        bn = match(matched)
        oh = jnp.mean(w * ce)
        adv = jnp.mean(w * agreement(f_t, student_variables, seen))
        total = weights.bn * bn + weights.oh * oh + weights.adv * adv
        metrics = {"inversion": total, "bn": bn, "oh": oh, "adv": adv, "confidence": confidence.mean()}
        return total, (x, variables, metrics, smoothed)

    return loss


def make_step(
    loss: Callable, tx: optax.GradientTransformation, tx_z: optax.GradientTransformation, axis: str | None
) -> Callable:
    """(work, teacher variables, student variables) -> (work, metrics): one inner step on g and z.

    Args:
        loss: (params, z, work, teacher variables, student variables) -> (loss, (images, variables, metrics));
            a fourth auxiliary value, where there is one, is the next `work.smoothing`.
    """

    def step(work: Work, teacher_variables: Variables, student_variables: Variables) -> tuple[Work, Metrics]:
        params = work.variables["params"]
        gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
        (grads, grads_z), auxiliary = gradient(params, work.z, work, teacher_variables, student_variables)
        x, variables, metrics, *smoothed = auxiliary
        statistics = {name: value for name, value in variables.items() if name != "params"}
        grads, statistics, metrics = parallel.mean((grads, statistics, metrics), axis)
        updates, opt_state = tx.update(grads, work.opt_state, params)
        updates_z, z_opt_state = tx_z.update(parallel.local_gradient(grads_z, axis), work.z_opt_state, work.z)
        variables = {**statistics, "params": optax.apply_updates(params, updates)}
        better = metrics["inversion"] < work.best_loss
        work = work.replace(
            z=optax.apply_updates(work.z, updates_z),
            key=jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(work.key), 0)),
            variables=variables,
            opt_state=opt_state,
            z_opt_state=z_opt_state,
            summed=jax.tree.map(jnp.add, work.summed, grads),
            best_loss=jnp.where(better, metrics["inversion"], work.best_loss),
            best_images=jnp.where(better, x, work.best_images),
            smoothing=smoothed[0] if smoothed else work.smoothing,
        )
        return work, metrics

    return step
