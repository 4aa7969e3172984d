"""State pytrees and the contracts that the stations of the pipeline share.

Legend of shapes, used in every docstring of the package:

    B  images in a batch          N  slots of the replay buffer
    C  classes                    Z  size of the latent z
    V  cached teacher views       H, W, D  image height, width and channels

Images are float32 in [0, 1] where computed with, uint8 in [0, 255] where they are stored; states are immutable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import optax

Array = jax.Array
Key = jax.Array
Variables = Mapping[str, Any]
Metrics = dict[str, Array]


class Network(NamedTuple):
    """A classifier (of images or pixels) or a generator as pure functions of its variables.

    Attributes:
        init: key -> variables.
        apply: (variables, inputs) -> outputs, with the running BatchNorm statistics.
        train: (variables, inputs, key=None for layers that draw) -> (outputs, variables), with the batch's statistics.
        narrower: (share, axis, compute) -> the same with that share of its channels; None where it cannot be made.
        as_torch: variables -> its PyTorch state dict; None where at most its name says how.
    """

    init: Callable[[Key], Variables]
    apply: Callable[[Variables, Array], Array]
    train: Callable[..., tuple[Array, Variables]]
    narrower: Callable[..., Network] | None = None
    as_torch: Callable[[Variables], Mapping[str, Any]] | None = None


class Inputs(NamedTuple):
    """What a network takes: image_shape (H, W, D), classes C, and the mean and std of its channels' normalisation."""

    image_shape: tuple[int, int, int]
    classes: int
    mean: Sequence[float]
    std: Sequence[float]


class Task(NamedTuple):
    """What is learnt: every function reduces to one number per image.

    Attributes:
        classes: C.
        targets: (key, asked [C] probabilities, n) -> n targets for the generator.
        target_codes: targets -> [B, C], what the generator is told of them, in its latent.
        target_loss: (logits, targets) -> [B].
        distillation_loss: (teacher logits, student logits) -> [B].
        adversarial_loss: (teacher logits, student logits) -> [B], lower where they disagree.
        gap: (teacher logits, student logits) -> [B], the priority delta of an image.
        class_probabilities: logits -> [B, C].
        metrics: (logits, labels) -> {name: [B, ...]}, to be summed over a set; training descends their 'loss' [B].
        scores: (their sums, images in the set) -> {name: value}, on the host.
        score: name of the one by which a network is judged.
    """

    classes: int
    targets: Callable[[Key, Array, int], Array]
    target_codes: Callable[[Array], Array]
    target_loss: Callable[[Array, Array], Array]
    distillation_loss: Callable[[Array, Array], Array]
    adversarial_loss: Callable[[Array, Array], Array]
    gap: Callable[[Array, Array], Array]
    class_probabilities: Callable[[Array], Array]
    metrics: Callable[[Array, Array], Metrics]
    scores: Callable[[Any, int], dict[str, float]]
    score: str


@chex.dataclass(frozen=True)
class Sharded:
    """Marks arrays whose leading axis is split over the devices; all else is replicated."""

    rows: Any


@chex.dataclass(frozen=True)
class ModelState:
    """A network in training.

    Attributes:
        variables: 'params' and, where the network has any, 'batch_stats'.
        opt_state: state of the optax optimiser.
        step: int32 [], updates made.
    """

    variables: Variables
    opt_state: optax.OptState
    step: Array


@chex.dataclass(frozen=True)
class Batch:
    """What the student sees in one step; `B` rows on this device.

    Attributes:
        images: [B, H, W, D] float32 in [0, 1], the drawn images under the drawn view.
        teacher_logits: [B, C] (dense tasks [B, H, W, C]), the teacher's answer to that view.
        weights: [B] importance weights w_i.
        slots: int32 [B], where the images stand in the buffer (all devices'); zeros without one.
        unblended: bool [B] (all devices'), whether the student's gap on an image is its slot's; None without slots.
        hints: a pytree of [B, ...], the teacher's hints on that view (see hints.py), or None.
    """

    images: Array
    teacher_logits: Array
    weights: Array
    slots: Array
    unblended: Array | None = None
    hints: Any = None


@chex.dataclass(frozen=True)
class Preview:
    """Images for the eye, with what the teacher says of them; M rows on this device.

    Attributes:
        images: uint8 [M, H, W, D].
        label: int32 [M], the teacher's prediction; negative where a row is empty.
        confidence: [M], conf_t, in [0, 1].
    """

    images: Array
    label: Array
    confidence: Array


class Trained(NamedTuple):
    """What inversion trains: parameters (of the latents: z [B, Z]), their optimisers, or these optimisers' states.

    The head is what a method trains beside generator and latents; () without any.
    """

    generator: Any
    latents: Any
    head: Any = ()


@chex.dataclass(frozen=True)
class Work:
    """Scratch state of one synthesis; B is this device's part of the batch.

    Attributes:
        params, opt_state: of generator, latents and head.
        statistics: the generator's variables beside its parameters.
        targets: [B], the classes asked for.
        class_counts: [C], n_c of the buffer when the round began.
        rounds: int32 [], syntheses before this one.
        key: key data, of the next step; see `inversion.step_keys`.
        summed: gradients of the generator summed over the inner steps.
        best_loss, best_images: the lowest loss [] so far, and the images [B, H, W, D] that had it.
        smoothing: what `smoothing.Smoothing` knows of the batch of `best_images`; () where it smooths nothing.
    """

    params: Trained
    opt_state: Trained
    statistics: Variables
    targets: Array
    class_counts: Array
    rounds: Array
    key: Array
    summed: Any
    best_loss: Array
    best_images: Array
    smoothing: chex.ArrayTree

    @property
    def generator_variables(self) -> Variables:
        """The generator as it stands."""
        return {**self.statistics, "params": self.params.generator}


class Synthesis(NamedTuple):
    """The part of a round that makes images; its three functions run once, `steps` times, once.

    Attributes:
        begin: (state, key) -> work, the scratch state of this round.
        step: (work, teacher variables, student variables) -> (work, metrics).
        finish: (work, state, teacher variables, student, key) -> (state, metrics).
        steps: how often `step` runs between the two.
        loss: what `step` descends, an `inversion.Loss`; None where nothing is inverted.
        images: work -> the images [B, H, W, D] that it has made; None where none are made.
        asked: work -> int32 [B], the classes that these were asked to be of; None where nothing is asked.
    """

    begin: Callable[[Any, Key], Any]
    step: Callable[[Any, Variables, Variables], tuple[Any, Metrics]]
    finish: Callable[[Any, Any, Variables, ModelState, Key], tuple[Any, Metrics]]
    steps: int
    loss: Callable[[Trained, Work, Variables, Variables], tuple[Array, Any]] | None = None
    images: Callable[[Any], Array] | None = None
    asked: Callable[[Any], Array] | None = None


class Method(NamedTuple):
    """A data-free method, as a record of pure functions.

    Attributes:
        init: key -> state.
        synthesis: how the images of a round are made.
        sample: (state, teacher variables, student step, key) -> Batch.
        feedback: (state, batch, gaps [B], student step) -> state, what the student's answer changes.
        distillation_loss: (teacher logits, student logits) -> [B], what the student descends.
        preview: (state, teacher variables, key) -> Preview, what the student is taught from.
        images_made: (rounds, student steps) -> how many images were synthesised for them, in all.
        fill: state as of `init` -> the same with arrays that the method was given; outside of every program, which
            would hold them as constants.
    """

    init: Callable[[Key], Any]
    synthesis: Synthesis
    sample: Callable[[Any, Variables, Array, Key], Batch]
    feedback: Callable[[Any, Batch, Array, Array], Any]
    distillation_loss: Callable[[Array, Array], Array]
    preview: Callable[[Any, Variables, Key], Preview]
    images_made: Callable[[int, int], int]
    fill: Callable[[Any], Any] = lambda state: state


@chex.dataclass(frozen=True)
class TrainState:
    """Everything that a run is made of; what a checkpoint holds.

    Attributes:
        method: the method's state (generator, buffer, sampler).
        student: the student in training.
        snapshot: variables of the student that was best so far, as it was judged; at first those it starts from.
        round: int32 [], rounds completed.
        key: key data of the run, as of `keys.of_seed`.
    """

    method: Any
    student: ModelState
    snapshot: Variables
    round: Array
    key: Key
