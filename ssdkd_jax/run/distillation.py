"""The distillation of a run: started or resumed, evaluated now and then, saved, and stopped when asked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ssdkd_jax import build
from ssdkd_jax.engine import checkpoint, dispatch, guard, hosts, loop, parallel, preemption
from ssdkd_jax.engine.saver import Saver
from ssdkd_jax.report import plots, progress
from ssdkd_jax.run import beginning, health, identity, indicators, snapshots
from ssdkd_jax.types import Preview, TrainState, Variables

if TYPE_CHECKING:
    from ml_collections import ConfigDict

NOTED = {"curve": list, "skipped": dict, "begun": dict, "shorter": list, "first": dict}  # of `Distilled`, kept


class Judges(NamedTuple):
    """By what a student is judged as the run goes on.

    Attributes:
        student: state on the devices -> the variables of its student as it would be saved.
        scores: its variables on the devices -> held-out scores; {} where there are no real images.
        fresh: what needs no data, see `indicators`.
        preview: state on the devices -> what the student is taught from.
        shown: state on the devices -> a few of these, of each class.
    """

    student: Callable[[TrainState], Variables]
    scores: Callable[[Variables], dict[str, float]]
    fresh: indicators.Fresh
    preview: Callable[[TrainState], Preview]
    shown: Callable[[TrainState], Preview]


class Watchers(NamedTuple):
    """Who is told of a run as it goes on.

    Attributes:
        stop: asked between dispatches.
        on_round: called with (rounds done, mean metrics and what was evaluated) after each round.
        on_state: called with (state on the devices, what a checkpoint would note) at the start and after each round.
    """

    stop: Callable[[], bool] = dispatch.never
    on_round: Callable[[int, dict[str, float]], None] = lambda rounds, metrics: None
    on_state: Callable[[TrainState, dict[str, Any]], None] = lambda state, note: None


class Distilled(NamedTuple):
    """What a distillation leaves.

    Attributes:
        state: on the devices.
        curve: a point an evaluation: round, seconds, held-out scores and indicators.
        skipped: steps that were not finite, by stage.
        begun: metrics of a round that is not at its end: name -> [steps].
        shorter: where the run was longer than first planned, how long it was to be before: rounds done, and
            schedule.rounds until then.
        first: what was evaluated after the first round.
    """

    state: TrainState
    curve: list[dict[str, Any]]
    skipped: dict[str, int]
    begun: dict[str, list[float]]
    shorter: list[dict[str, int]]
    first: dict[str, float]


def distil(
    config: ConfigDict,
    job: build.Job,
    teacher: Variables,
    run: Mapping[str, Any],
    judges: Judges,
    workdir: Path | None,
    clock: progress.Stopwatch,
    watchers: Watchers,
) -> Distilled:
    """Run the job, or go on from its newest checkpoint under the workdir; the end is the same to the bit.

    Args:
        config: with global batches, see `build.for_devices`.
        teacher: placed on the devices.
        run: what it is, as of `identity.of`.
        workdir: None keeps nothing.

    Raises:
        InputError: where the workdir holds another run.
        Preempted: where `watchers.stop` said so, and the state is saved; called again, it goes on.
    """
    folder = workdir and workdir / "checkpoints"
    distilled = begin(job, config.seed, run, folder, clock)
    note = {**run, "seconds": clock.seconds, **{name: getattr(distilled, name) for name in NOTED}}
    watchers.on_state(distilled.state, note)
    if (start := loop.position(distilled.state)).finished(job.plan):
        return distilled
    with clock("compilation"):
        programs = loop.compile_round(job.method, job.step, job.plan, distilled.state, teacher)
        if clock.of_process:  # which cannot tell what is compiled aside from what is computed
            dispatch.wait(programs)
    saver = Saver(folder, config.schedule.checkpoint_seconds)
    board = progress.Board(workdir / "tensorboard" if workdir and hosts.is_first() else None)
    evaluated = evaluator(config, job, teacher, judges, programs, distilled, clock, board)
    bar = progress.progress("distillation", job.plan.rounds, start.rounds, hosts.is_first())
    with contextlib.closing(board), contextlib.closing(saver), dispatch.cancelling(programs), bar as advance:

        def on_round(rounds: int, state: TrainState, metrics: dict[str, float]) -> TrainState:
            note["begun"] = {}
            guard.add_skipped(distilled.skipped, metrics)
            board.scalars(metrics, rounds)
            state, found = evaluated(rounds, state)
            metrics |= found
            advance((distilled.curve[-1] if distilled.curve else {}) | metrics)
            watchers.on_state(state, note)
            save = saver.now if rounds == job.plan.rounds else saver.now_and_then
            with clock("saving"):
                save(loop.position(state).checkpoint, state, note)
            watchers.on_round(rounds, metrics)
            return state

        begun = {name: np.array(values, np.float32) for name, values in distilled.begun.items()}
        begin_student = beginning.starter(job, teacher, judges.preview, clock)
        state, begun = loop.run(
            programs, job.plan, distilled.state, teacher, clock, on_round, watchers.stop, begun, begin_student
        )
    if not loop.position(state).finished(job.plan):
        raise preempted(saver, state, note, begun)
    return distilled._replace(state=state)


def evaluator(
    config: ConfigDict,
    job: build.Job,
    teacher: Variables,
    judges: Judges,
    programs: loop.Programs,
    distilled: Distilled,
    clock: progress.Stopwatch,
    board: progress.Board,
) -> Callable[[int, TrainState], tuple[TrainState, dict[str, float]]]:
    """(rounds done, state) -> the state with its snapshot, and what is found of its student; {} where none is due."""
    watch = health.Watch(job.task.classes)

    def evaluated(rounds: int, state: TrainState) -> tuple[TrainState, dict[str, float]]:
        with clock("evaluation"):
            if rounds == 1:
                distilled.first.update(judges.fresh(programs, state, teacher, [state.student.variables], 1)[0])
            if not evaluation_due(config, job.plan, rounds):
                return state, {}
            last, first = rounds == job.plan.rounds, not distilled.curve
            state, better, found = judged(judges, programs, state, teacher, last, first)
        best = rounds if better else distilled.curve[-1][snapshots.ROUND]
        distilled.curve.append({**point(rounds, clock, found), snapshots.ROUND: best})
        watch.look(found, rounds)
        show(board, found, judges.shown(state), job.task.classes, rounds)
        return state, found

    return evaluated


def judged(
    judges: Judges, programs: loop.Programs, state: TrainState, teacher: Variables, last: bool, first: bool
) -> tuple[TrainState, bool, dict[str, float]]:
    """The state with the better of its student and its snapshot as snapshot, whether that is its student, and scores.

    These are of its student, with the indicators; at the end of a run they are of more images.
    """
    student, batches = judges.student(state), indicators.BATCHES if last else 1
    scores = judges.scores(student)
    state, better, found = snapshots.keep_better(judges.fresh, programs, state, teacher, student, batches, first)
    return state, better, scores | found


def show(board: progress.Board, found: dict[str, float], rows: Preview, classes: int, rounds: int) -> None:
    """Put on the board what was found after a round, and the images of it."""
    board.scalars({name if name in indicators.NAMES else f"test/{name}": found[name] for name in found}, rounds)
    board.image("synthetic", plots.class_grid(rows.images, rows.label, classes), rounds)


def chosen(done: Distilled, judges: Judges) -> tuple[Variables, dict[str, Any]]:
    """The student of a run, and the point of the curve that judges it.

    Where the newest state was evaluated that is the snapshot, else the newest student, whose point is {}.
    """
    newest = done.curve[-1] if done.curve else {}
    if newest.get("round") != loop.position(done.state).rounds:
        return judges.student(done.state), {}
    return done.state.snapshot, next(one for one in done.curve if one["round"] == newest[snapshots.ROUND])


def preempted(saver: Saver, state: TrainState, note: dict[str, Any], begun: loop.History) -> preemption.Preempted:
    """What a run raises that was stopped before its end, once it is saved with the metrics of the round it is in."""
    end = loop.position(state)
    note["begun"] = {name: values.tolist() for name, values in begun.items()}
    saver.now(end.checkpoint, state, note)
    return preemption.Preempted(
        f"Stopped by SIGTERM after synthesis {end.rounds}, and saved; the same command goes on."
    )


def begin(
    job: build.Job, seed: int, run: Mapping[str, Any], folder: Path | None, clock: progress.Stopwatch
) -> Distilled:
    """The first state of the job, or that of the newest checkpoint in `folder`; the clock goes on from its seconds.

    Args:
        run: as of `identity.of`.

    Raises:
        InputError: where the checkpoint is of another run.
    """
    if found := folder and checkpoint.newest_whole(folder):
        before = found.note.get("settings")
        before = before and {**before, "teacher": found.note["teacher"]}
        identity.check_run(before, {**run["settings"], "teacher": run["teacher"]}, folder.parent)
    with clock("setup"):
        first = loop.first(job.method, job.network, job.tx, seed)
    _, state, note = (folder and checkpoint.restore(folder, first)) or (0, first, {})
    clock.add(note.get("seconds", {}))
    distilled = Distilled(parallel.to_devices(state), *(note.get(name, empty()) for name, empty in NOTED.items()))
    planned = note["settings"][identity.ROUNDS] if note else job.plan.rounds
    if planned < job.plan.rounds:
        distilled.shorter.append({"rounds": int(state.round), identity.ROUNDS: planned})
    return distilled


def evaluation_due(config: ConfigDict, plan: loop.Plan, rounds: int) -> bool:
    """Whether the student is evaluated after so many rounds: every few that distil, and at the end."""
    distilling = rounds - plan.warmup
    return rounds == plan.rounds or (distilling > 0 and distilling % config.schedule.evaluate_every == 0)


def point(rounds: int, clock: progress.Stopwatch, found: dict[str, float]) -> dict[str, Any]:
    """A point of the curve."""
    spent = {stage: clock.seconds.get(stage, 0.0) for stage in ("synthesis", "distillation")}
    return {"round": rounds, "seconds": clock.total, **spent, **found}
