"""The whole run: a teacher, its data-free distillation into a student, the yardsticks, and the report."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ssdkd_jax import build, models, replay_buffer
from ssdkd_jax import config as settings
from ssdkd_jax.engine import calibration, dispatch, files, hosts, parallel, supervised
from ssdkd_jax.errors import Faults, gathered
from ssdkd_jax.interop import saved
from ssdkd_jax.models import conformance
from ssdkd_jax.report import progress
from ssdkd_jax.run import distillation, evaluation, foreign, identity, pictures, profiling, summary, yardstick
from ssdkd_jax.run import teacher as teachers
from ssdkd_jax.types import Inputs

if TYPE_CHECKING:
    from ssdkd_jax.data import Dataset

log = logging.getLogger(__name__)


def run(
    config: ConfigDict,
    dataset: Dataset,
    workdir: str | Path,
    clock: progress.Stopwatch | None = None,
    stop: Callable[[], bool] = dispatch.never,
) -> dict[str, Any]:
    """Run, or go on with, what the config describes; the student and what is returned, summary.json, land in `workdir`.

    Args:
        dataset: trains the teacher where none is saved, measures scores, and feeds the yardsticks; the student
            never sees it.
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
    images = ready(config, dataset, workdir)
    teacher = teachers.obtain(config, dataset, workdir, clock, stop)
    with clock("evaluation"):
        variables = parallel.to_devices(teacher.variables)
        teacher_scores = evaluation.evaluator(config, teacher.network, dataset)(variables)
    with clock("setup"):
        job = build.job(config, teacher.inputs, teacher.network, teacher.variables, images=images)
    log.info(", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in sizes(teacher, job).items()))
    score, preview = job.task.score, pictures.previewer(job, variables)
    calibrated = calibration.make(job.method, job.network, build.student_steps(config), config.student.update_bn)
    scores_of = evaluation.evaluator(config, job.network, dataset)
    state, curve, skipped, _, shorter = distillation.distil(
        config, job, variables, lambda state: scores_of(calibrated(state, variables)), preview, workdir, clock, stop
    )
    parallel.check_replicated(state)
    student = parallel.to_host(calibrated(state, variables))
    note = saved.note(config.student.model, teacher.inputs, meant=True, **{score: curve[-1][score]})
    saved.save(workdir / "student", student, note)
    found = {
        **summary.scores(score, teacher_scores, curve, clock.seconds.get("teacher", 0.0)),
        **amounts(config, job),
        "skipped_steps": skipped,
        "planned_shorter": shorter,
        **sizes(teacher, job),
        **yardsticks(config, dataset, teacher, score, clock, stop),
    }
    networks = (teacher.network, teacher.variables), (job.network, student)
    with clock("report"):
        rows, batch = preview(state), evaluation.batch_of(dataset)
        found["class_counts"] = pictures.class_counts(rows, job.task.classes)
        pictures.write(workdir, config, rows, found, curve, dataset, networks)
        found |= foreign.told(score, teacher_scores[score], teacher.note, dataset, networks, batch)
    found |= summary.circumstances(original, clock) | {"curve": curve}
    if hosts.is_first():
        files.write_json(workdir / "summary.json", found)
    return found


def ready(config: ConfigDict, dataset: Dataset, workdir: Path) -> np.ndarray:
    """The images that the yardstick 'given' distils on, once folder and data set are found to be those of this run.

    Raises:
        InputError: where they are not, or do not fit a teacher that is still to be trained.
    """
    identity.check_folder(workdir, config)
    evaluation.check(dataset)
    images, faults = yardstick.given_images(config, dataset), Faults()
    with faults:
        conform(config, evaluation.inputs(config, dataset))
    if teachers.to_be_trained(config, workdir):
        of_model = Exception if faults.sentences else ()  # a model that does not serve may raise whatever it likes
        with contextlib.suppress(of_model), faults:
            fits(config, dataset, images)
    faults.report()
    return images


def conform(config: ConfigDict, inputs: Inputs) -> None:
    """Raise InputError, a line a fault, where a model of one's own does not serve; the zoo's are known to."""
    faults = Faults()
    for name in sorted({config.teacher.model, config.student.model}):
        if ":" in name:
            network = build.network(name, inputs, None, config.compute)
            faults.extend(conformance.check(network, inputs.image_shape, name))
    faults.report()


def fits(config: ConfigDict, dataset: Dataset, images: np.ndarray) -> None:
    """Raise InputError, a line a fault, where a config does not fit the data or the teacher that it is to train."""
    teacher = teachers.untrained(config, dataset)
    gathered(
        lambda: supervised.check_batch(len(dataset.train_images), config.teacher.batch),
        lambda: build.job(config, teacher.inputs, teacher.network, teacher.variables, images=images),
    )


def sizes(teacher: teachers.Teacher, job: build.Job) -> dict[str, int]:
    """How many parameters the networks have; nothing is computed."""
    key = jax.random.key(0)
    state = jax.eval_shape(job.method.init, key)
    generator = {"generator": state.generator.variables} if hasattr(state, "generator") else {}
    networks = {"teacher": teacher.variables, "student": jax.eval_shape(job.network.init, key), **generator}
    return {f"{name}_parameters": models.parameter_count(variables) for name, variables in networks.items()}


def amounts(config: ConfigDict, job: build.Job) -> dict[str, int | None]:
    """How many images and steps the run made, and how many slots its buffer has; None for a method without one."""
    steps, records = build.student_steps(config), build.records(config)
    return {
        "synthetic_images": job.method.images_made(config.schedule.rounds, steps),
        "buffer_size": config.buffer.size if replay_buffer.Size in records else None,
        "distillation_steps": steps,
    }


def yardsticks(
    config: ConfigDict,
    dataset: Dataset,
    teacher: teachers.Teacher,
    score: str,
    clock: progress.Stopwatch,
    stop: Callable[[], bool],
) -> dict[str, float]:
    """What the config asks to be measured beside the run: the `score` from real images, the seconds of a step."""
    found = {}
    if config.yardstick_steps:
        with clock("yardstick"):
            found[f"real_subset_{score}"] = yardstick.train(config, dataset, teacher.inputs, stop)
    if config.measure_unit:
        found["unit_seconds"] = profiling.unit_seconds(config, *teacher[:3])
    return found
