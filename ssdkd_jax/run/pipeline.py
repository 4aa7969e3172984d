"""The whole run: a teacher, its data-free distillation into a student, the yardsticks, and the report."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ssdkd_jax import build
from ssdkd_jax import config as settings
from ssdkd_jax.engine import calibration, dispatch, files, hosts, loop, parallel
from ssdkd_jax.interop import saved
from ssdkd_jax.interop.saved import Classifier
from ssdkd_jax.models import shares
from ssdkd_jax.report import progress
from ssdkd_jax.run import (
    distillation,
    evaluation,
    foreign,
    health,
    identity,
    indicators,
    pictures,
    profiling,
    readiness,
    snapshots,
    summary,
    yardstick,
)
from ssdkd_jax.run import teacher as teachers
from ssdkd_jax.types import Network, Preview, TrainState, Variables

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from ssdkd_jax.data import Dataset

log = logging.getLogger(__name__)


class Learner(NamedTuple):
    """A student that was handed over.

    Attributes:
        name: by what sentences call it.
        network: its functions, bound to the devices' axis.
        digest: what tells it from others, see `identity.program`.
    """

    name: str
    network: Network
    digest: str


class Prepared(NamedTuple):
    """A distillation before its first step.

    Attributes:
        config: with global batches, see `build.for_devices`.
        teacher: the teacher.
        variables: its weights on the devices.
        teacher_scores: on real images; {} without.
        job: what is run.
        judge, judges: by what the networks are judged.
        name: of the student.
        of_run: what the run is, as of `identity.of`.
    """

    config: ConfigDict
    teacher: Classifier
    variables: Variables
    teacher_scores: dict[str, float]
    job: build.Job
    judge: evaluation.Judge
    judges: distillation.Judges
    name: str
    of_run: dict[str, Any]


class Outcome(NamedTuple):
    """What a run leaves: its student, what this was taught from at the end, what summary.json holds, and its state."""

    student: Classifier
    rows: Preview
    found: dict[str, Any]
    state: TrainState


def run(
    config: ConfigDict,
    dataset: Dataset | None,
    workdir: str | Path,
    clock: progress.Stopwatch | None = None,
    stop: Callable[[], bool] = dispatch.never,
) -> dict[str, Any]:
    """Run, or go on with, what the config describes; the student and what is returned, summary.json, land in `workdir`.

    Args:
        dataset: trains the teacher where none is saved, measures scores, and feeds the yardsticks; the student
            never sees it. None does without: the config names a saved teacher, and what needs no data is told.
        clock: of the whole process, where more than this run is to be counted.
        stop: asked between dispatches.

    Raises:
        InputError: a line for each fault of the config, or for each way in which config, data and teacher do not fit
            together; or where the workdir holds another run.
        NotFiniteError: where a stage stays not finite.
        Preempted: where `stop` said so, and all is saved; called again, it goes on.
    """
    settings.check(config)
    original, config = config, build.for_devices(config)
    workdir, clock = Path(workdir), clock or progress.Stopwatch()
    identity.check_folder(workdir, config)
    if dataset is None:
        teacher, judge, images = teachers.given(config), evaluation.without_data(), None
        config.teacher.model = teacher.name
        readiness.conform(config, teacher.inputs)
    else:
        judge, images = evaluation.on(config, dataset), readiness.ready(config, dataset, workdir)
        teacher = teachers.obtain(config, dataset, workdir, clock, stop)
    prepared = prepare(config, teacher, judge, clock, images=images)
    done = start(prepared, workdir, clock, distillation.Watchers(stop=stop))
    return keep(prepared, conclude(prepared, done, clock), original, workdir, clock, dataset, stop)


def prepare(
    config: ConfigDict,
    teacher: Classifier,
    judge: evaluation.Judge,
    clock: progress.Stopwatch,
    learner: Learner | None = None,
    images: np.ndarray | None = None,
) -> Prepared:
    """Build the job, and judge the teacher.

    Args:
        config: with global batches, see `build.for_devices`.
        learner: a student that was handed over; None makes the one that the config names.
        images: for the yardstick 'given'.

    Raises:
        InputError: as `build.job`.
    """
    with clock("evaluation"):
        variables = parallel.to_devices(dict(teacher.variables))
        teacher_scores = judge.scores(teacher.network)(variables)
    with clock("setup"):
        network = learner and learner.network
        job = build.job(config, teacher.inputs, teacher.network, teacher.variables, images=images, learner=network)
    log.info(", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in summary.sizes(teacher, job).items()))
    calibrated = calibration.make(job.method, job.network, build.student_steps(config), config.student.update_bn)
    judges = distillation.Judges(
        student=lambda state: calibrated(state, variables),
        scores=judge.scores(job.network),
        fresh=indicators.make(job, config.seed),
        preview=pictures.previewer(job, variables),
        shown=pictures.previewer(job, variables, pictures.of_each_class(job.task.classes, parallel.AXIS)),
    )
    named = shares.student_name(config.student.model, teacher.name)
    name, told = (learner.name, learner.digest) if learner else (named, "")
    of_run = identity.of(config, teacher.variables, teacher.inputs, told)
    return Prepared(config, teacher, variables, teacher_scores, job, judge, judges, name, of_run)


def start(
    prepared: Prepared, workdir: Path | None, clock: progress.Stopwatch, watchers: distillation.Watchers
) -> distillation.Distilled:
    """Run the job, or go on with it, as `distillation.distil`."""
    config, job, judges = prepared.config, prepared.job, prepared.judges
    done = distillation.distil(config, job, prepared.variables, prepared.of_run, judges, workdir, clock, watchers)
    if workdir is None:  # else `keep` does so, once the student is saved
        parallel.check_replicated(done.state)
    return done


def conclude(prepared: Prepared, done: distillation.Distilled, clock: progress.Stopwatch) -> Outcome:
    """The student, what it was taught from, and what is known of them; also of a run that is not at its end."""
    config, teacher, job, judge = prepared.config, prepared.teacher, prepared.job, prepared.judge
    position, (student, last) = loop.position(done.state), distillation.chosen(done, prepared.judges)
    if position.finished(job.plan) and judge.score not in last:  # it was made without real images, or by other ones
        last.update(prepared.judges.scores(student))
    scores = {judge.score: last[judge.score]} if judge.score in last else {}
    classifier = Classifier(job.network, parallel.to_host(student), teacher.inputs, prepared.name, scores)
    with clock("report"):
        rows = prepared.judges.preview(done.state)
        taught = indicators.taught(teacher, classifier, rows, config.student.temperature)
    known = {**indicators.told(last, done.first), **taught, "skipped": summary.skipped(done.skipped, job, position)}
    found = {
        **summary.scores(judge.score, prepared.teacher_scores, done.curve, last, clock.seconds.get("teacher", 0.0)),
        **known,
        **{"health": health.whole(known, job.task.classes)},
        **summary.amounts(config, job, position),
        "skipped_steps": done.skipped,
        "planned_shorter": done.shorter,
        **summary.sizes(teacher, job),
        "class_counts": pictures.class_counts(rows, job.task.classes),
        "curve": done.curve,
        snapshots.ROUND: last.get(snapshots.ROUND),
    }
    return Outcome(classifier, rows, found, done.state)


def keep(
    prepared: Prepared,
    outcome: Outcome,
    original: ConfigDict,
    workdir: Path,
    clock: progress.Stopwatch,
    dataset: Dataset | None = None,
    stop: Callable[[], bool] = dispatch.never,
) -> dict[str, Any]:
    """Write all that a finished run leaves in its workdir, the student first, and return what summary.json then holds.

    Args:
        original: the config as it was given.
        dataset: for the yardsticks, and for pictures of real images.
    """
    config, teacher, student, score = prepared.config, prepared.teacher, outcome.student, prepared.judge.score
    saved.keep(student, workdir / "student")
    parallel.check_replicated(outcome.state)
    found = dict(outcome.found)
    if dataset is not None:
        found |= yardstick.told(config, dataset, teacher, score, clock, stop)
    if config.measure_unit:
        found["unit_seconds"] = profiling.unit_seconds(config, teacher.network, teacher.variables, teacher.inputs)
    networks = tuple((one.network, one.variables) for one in (teacher, student))
    with clock("report"):
        pictures.write(workdir, prepared.job.task, outcome.rows, found, dataset, networks)
        if dataset is not None:
            batch = evaluation.batch_of(dataset)
            found |= foreign.told(score, prepared.teacher_scores[score], teacher.note, dataset, networks, batch)
    found |= summary.circumstances(original, clock)
    if hosts.is_first():
        files.write_json(workdir / "summary.json", found)
    return found
