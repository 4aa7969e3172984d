"""A student from a teacher, in one call."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssdkd_jax import build
from ssdkd_jax import config as settings
from ssdkd_jax.api import rules, students, synthesis
from ssdkd_jax.api.judges import Evaluate, judge_of
from ssdkd_jax.api.students import Student
from ssdkd_jax.api.synthesis import SyntheticSet
from ssdkd_jax.api.teachers import Teacher
from ssdkd_jax.engine import checkpoint, hosts, loop, parallel
from ssdkd_jax.engine import workdir as folders
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop.saved import Classifier
from ssdkd_jax.report import plots, progress
from ssdkd_jax.run import distillation, identity, indicators, pipeline, readiness, summary
from ssdkd_jax.types import TrainState

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from ml_collections import ConfigDict

log = logging.getLogger(__name__)
OnRound = Callable[[int, dict[str, float]], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Distilled:
    """What a distillation leaves.

    Attributes:
        student: call it with images, uint8 or in [0, 1]; `.save(folder)`, `.export(path)`.
        synthetic: the images that it was taught from, at the end.
        history: a point an evaluation: round, seconds, scores and indicators.
        indicators: what is known without data, at the end; see `ssdkd_jax.run.indicators`.
        health: a sentence for each thing that went wrong, with the setting that helps; see `ssdkd_jax.run.health`.
        finished: False where it was interrupted.
        summary: what summary.json holds of a run that is kept; without a workdir, its scores and amounts.
    """

    student: Classifier
    synthetic: SyntheticSet
    history: list[dict[str, Any]]
    indicators: dict[str, float]
    health: list[str]
    finished: bool
    summary: dict[str, Any]

    def __repr__(self) -> str:
        names = ("agreement", "fresh_kl")
        known = ", ".join(f"{name} {self.indicators[name]:.3g}" for name in names if name in self.indicators)
        sick = f", {len(self.health)} warnings" if self.health else ""
        return f"Distilled({self.student!r}, {known}{sick}{'' if self.finished else ', interrupted'})"

    def plot_images(self, per_class: int = 12) -> Figure:
        """A figure of the synthetic images, a row a class."""
        return self.synthetic.plot(per_class)

    def plot_curves(self) -> Figure:
        """A figure of the student's score, and of its agreement with the teacher, over time."""
        score = self.summary["score"]
        value = self.summary[f"teacher_{score}"]
        return plots.curves(self.history, {} if value is None else {"teacher": value}, score)

    def plot_histograms(self) -> Figure:
        """A figure of the classes and of the difficulty of the synthetic images."""
        return plots.histograms(np.array(self.summary["class_counts"]), self.synthetic.confidence)


def distill(
    teacher: Teacher | str | Path,
    student: Student,
    config: ConfigDict | str | None = None,
    *,
    task: str | None = None,
    seed: int | None = None,
    rounds: int | None = None,
    evaluate: Evaluate | None = None,
    workdir: str | Path | None = None,
    on_round: OnRound | None = None,
) -> Distilled:
    """Distil a teacher into a student without its data.

    Ctrl-C ends it early with what there is then (`finished` is False); a second one raises.

    Args:
        teacher: or another classifier, or the folder of a saved one.
        student: a name of the zoo, such as 'wrn10_1'; a number between 0 and 1: its teacher's own network with that
            share of its channels, see `models.shares`; or a flax module, linen or NNX.
        config: a ConfigDict (`ssdkd_jax.config.default()` and the files of configs/ make such); the name of a method,
            one of `ssdkd_jax.presets.PRESETS`; or None, which follows eight rules, see `ssdkd_jax.default_config`.
        task: 'classification' or 'segmentation'; None: as the config says.
        seed: decides the whole run, but for the weights with which an NNX student comes; None: as the config says, 0.
        rounds: of synthesis, in all; None: as the config says. Where they are no more than `schedule.warmup`, all but
            the last only make images.
        evaluate: real images and labels, as a pair of arrays; or a function of a classifier, to a number or a dict of
            numbers. The student is judged by them, never taught. None does without.
        workdir: keeps the run, and goes on with it where it was stopped, to the same bits; None writes nothing.
        on_round: called with (rounds done, metrics) after each round.

    Raises:
        InputError: a line for each fault of what is given; nothing has been changed then.
        NotFiniteError: where a stage stays not finite.

    >>> import jax.numpy as jnp, ssdkd_jax
    >>> weights = jnp.linspace(-1, 1, 192).reshape(64, 3)
    >>> teacher = ssdkd_jax.Teacher.from_function(
    ...     lambda w, x: x.reshape(len(x), -1) @ w, weights, image_shape=(8, 8, 1)
    ... )
    >>> distilled = ssdkd_jax.distill(teacher, "wrn10_1", rounds=2)
    >>> distilled.student(jnp.zeros((2, 8, 8, 1))).shape, distilled.finished
    ((2, 3), True)
    """
    teacher = synthesis.as_teacher(teacher)
    original = resolved(teacher, student, config, task, seed, rounds)
    settings.check(original)
    whole = build.for_devices(original)
    readiness.conform(whole, teacher.inputs)
    learner = students.handed_over(student, teacher, whole.compute)
    folder, clock = Path(workdir) if workdir else None, progress.Stopwatch()
    with folders.claimed(folder) if folder and hosts.is_first() else contextlib.nullcontext():
        if folder:
            identity.check_folder(folder, whole)
        prepared = pipeline.prepare(whole, teacher, judge_of(evaluate, whole, teacher), clock, learner)
        return followed(prepared, original, folder, clock, on_round or nobody)


def followed(
    prepared: pipeline.Prepared, original: ConfigDict, folder: Path | None, clock: progress.Stopwatch, on_round: OnRound
) -> Distilled:
    """What a prepared distillation leaves, kept in the folder where it comes to its end.

    Args:
        original: its config as it was given.
    """
    compare(prepared)
    done, finished = run_or_interrupted(prepared, folder, clock, on_round)
    outcome = pipeline.conclude(prepared, done, clock)
    found = outcome.found
    if folder and finished:
        found = pipeline.keep(prepared, outcome, original, folder, clock)
    known, images = indicators.told(found, done.first), synthesis.of_rows(prepared.teacher, outcome.rows)
    return Distilled(outcome.student, images, done.curve, known, found["health"], finished, found)


def run_or_interrupted(
    prepared: pipeline.Prepared, folder: Path | None, clock: progress.Stopwatch, on_round: OnRound
) -> tuple[distillation.Distilled, bool]:
    """What the run leaves, and whether it came to its end; after Ctrl-C what there was, saved where it is kept."""
    latest = Latest()
    watchers = distillation.Watchers(on_round=on_round, on_state=latest.keep)
    try:
        return pipeline.start(prepared, folder, clock, watchers), True
    except KeyboardInterrupt:
        done = latest.distilled()
        log.warning("Interrupted after %d rounds; this is what there is.", loop.position(done.state).rounds)
        if folder:
            latest.save(folder)
        return done, False


def resolved(
    teacher: Teacher,
    student: Student,
    config: ConfigDict | str | None,
    task: str | None,
    seed: int | None,
    rounds: int | None,
) -> ConfigDict:
    """The config of a call, with what the caller says besides."""
    if config is None:
        found = rules.default_config(teacher, student)
    elif isinstance(config, str):
        found = rules.default_config(teacher, student, method=config)
    elif isinstance(config, type(settings.default())):
        settings.check(config)
        found = config
    else:
        raise InputError(f"config is a {type(config).__name__}; give a ConfigDict, the name of a method, or None.")
    found = synthesis.prepared(found, task, seed)
    if isinstance(student, str | float | int):
        found.student.model = str(student)
    with found.ignore_type():
        found.schedule.rounds = found.schedule.rounds if rounds is None else rounds
    if isinstance(rounds, int):
        rules.leave_a_round(found)
    return found


def compare(prepared: pipeline.Prepared) -> None:
    """Say how large the two networks are, and warn where the student is not the cheaper one."""
    teacher, job = prepared.teacher, prepared.job
    counted = summary.sizes(teacher, job)
    sizes = [counted[f"{one}_parameters"] for one in ("teacher", "student")]
    flops = rules.costs(teacher, job.network)
    progress.say(
        f"Teacher {teacher.name}: {sizes[0]:,} parameters, {flops[0] / 1e6:.2f} MFLOP an image; "
        f"student {prepared.name}: {sizes[1]:,} parameters, {flops[1] / 1e6:.2f} MFLOP an image."
    )
    for what, (of_teacher, of_student) in (("parameters", sizes), ("FLOP an image", flops)):
        if of_student >= of_teacher:
            log.warning("The student has no fewer %s than its teacher; choose a smaller one.", what)


def nobody(*_: Any) -> None:
    """Is told, and does nothing."""


class Latest:
    """A copy of a run's newest state on the devices, since a step takes its own memory away from a state."""

    state: TrainState
    note: dict[str, Any]

    def keep(self, state: TrainState, note: Mapping[str, Any]) -> None:
        """Copy it."""
        self.state = parallel.copied(state)
        self.note = copy.deepcopy(dict(note))

    def save(self, workdir: Path) -> None:
        """Write it as a checkpoint of the run, where the newest one is older."""
        number, folder = loop.position(self.state).checkpoint, workdir / "checkpoints"
        if number > max(checkpoint.steps(folder), default=0):
            checkpoint.save(folder, number, parallel.to_save(self.state), self.note)

    def distilled(self) -> distillation.Distilled:
        """What an interrupted run leaves.

        Raises:
            KeyboardInterrupt: where it had not begun.
        """
        if not hasattr(self, "state"):
            raise KeyboardInterrupt
        return distillation.Distilled(self.state, *(self.note[name] for name in distillation.NOTED))
