"""The pmapped round: synthesize, then sample -> distill -> feedback repeated; knows no method's name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssdkd_jax.engine import dispatch, guard, hosts, keys, optimization, parallel
from ssdkd_jax.engine.keys import Stage
from ssdkd_jax.types import Array, Batch, Key, Method, Metrics, ModelState, TrainState, Variables

INVERSION, DISTILLING = "inversion", "distillation"
StudentStep = Callable[[ModelState, Batch, Key], tuple[ModelState, Array, Metrics]]
RoundStep = Callable[[TrainState, Variables], tuple[TrainState, Metrics]]
Clock = Callable[[str], AbstractContextManager]
Stop = Callable[[], bool]
Begin = Callable[[int, TrainState], TrainState]
History = dict[str, np.ndarray]


class Plan(NamedTuple):
    """How long a run is: `rounds` in all, of which the first `warmup` only make images.

    Attributes:
        distill_steps: of each later round.
        max_skipped: how many steps in a row that are not finite stop the run.
    """

    rounds: int
    warmup: int
    distill_steps: int
    max_skipped: int = 1


class Due(NamedTuple):
    """The next half of a round: a synthesis, or so many distillation steps; neither at the end of the run."""

    synthesis: bool
    distill_steps: int


class Position(NamedTuple):
    """How far a run is.

    Attributes:
        rounds: syntheses done.
        student_steps: distillation steps done.
    """

    rounds: int
    student_steps: int

    def due(self, plan: Plan) -> Due:
        """What comes next; distillation steps where a round has its images, but the student has not yet seen them."""
        steps = max(0, self.rounds - plan.warmup) * plan.distill_steps - self.student_steps
        return Due(False, steps) if steps > 0 else Due(self.rounds < plan.rounds, 0)

    def after(self, due: Due) -> Position:
        """Where the run is when that is done."""
        return Position(self.rounds + due.synthesis, self.student_steps + due.distill_steps)

    def finished(self, plan: Plan) -> bool:
        """Whether nothing is due."""
        return not any(self.due(plan))

    @property
    def checkpoint(self) -> int:
        """The number of its checkpoint; later ones are higher."""
        return self.rounds + self.student_steps


class Programs(NamedTuple):
    """The compiled programs of a round, in the order in which they run."""

    begin: Callable
    invert: Callable
    finish: Callable
    distill: Callable


def first(method: Method, network: Any, tx: Any, seed: int) -> TrainState:
    """The state before the first round, on the host side: not yet placed on devices."""
    state = parallel.quick_jit(partial(init, method, network, tx))(seed)
    return state.replace(method=method.fill(state.method))


def init(method: Method, network: Any, tx: Any, seed: int) -> TrainState:
    """What of the first state follows from the seed, for `first` to compile."""
    key = keys.of_seed(seed)
    student = optimization.init(network, tx, keys.of_stage(key, Stage.STUDENT_INIT))
    return TrainState(
        method=method.init(keys.of_stage(key, Stage.METHOD_INIT)),
        student=student,
        snapshot=student.variables,
        round=jnp.zeros((), jnp.int32),
        key=key,
    )


def begin(method: Method) -> Callable[[TrainState], Any]:
    """state -> work."""

    def run(state: TrainState) -> Any:
        return method.synthesis.begin(state.method, keys.of_stage(state.key, Stage.SYNTHESIS, state.round))

    return run


def finish(method: Method) -> Callable[[TrainState, Any, Variables], tuple[TrainState, Metrics]]:
    """(state, work, teacher variables) -> (state, metrics)."""

    def run(state: TrainState, work: Any, teacher: Variables) -> tuple[TrainState, Metrics]:
        key = keys.of_stage(state.key, Stage.STORAGE, state.round)
        method_state, metrics = method.synthesis.finish(work, state.method, teacher, state.student, key)
        return state.replace(method=method_state, round=state.round + 1), metrics

    return run


def distill(method: Method, student_step: StudentStep) -> RoundStep:
    """(state, teacher variables) -> (state, metrics): sample, distill, feedback."""

    def run(state: TrainState, teacher: Variables) -> tuple[TrainState, Metrics]:
        step = state.student.step
        batch = method.sample(state.method, teacher, step, keys.of_stage(state.key, Stage.DISTILLATION, step))
        key = keys.of_stage(state.key, Stage.LAYERS, step)
        student, gaps, metrics = student_step(state.student, batch, key)
        method_state = method.feedback(state.method, batch, gaps, step)
        return state.replace(method=method_state, student=student), metrics

    return run


def guarded_distill(method: Method, student_step: StudentStep) -> RoundStep:
    """`distill` as the devices run it: skipped, and counted, where it is not finite."""
    return guard.skipping(distill(method, student_step), DISTILLING, parallel.AXIS)


def compile_round(
    method: Method, student_step: StudentStep, plan: Plan, state: TrainState, teacher: Variables
) -> Programs:
    """Begin to compile the four programs of a round for a state placed on the devices; `run` waits for what is due."""
    programs = round_programs(method, student_step, plan)
    work = jax.eval_shape(programs.begin, state)
    arguments = Programs(
        begin=(state,),
        invert=(work, teacher, state.student.variables),
        finish=(state, work, teacher),
        distill=(state, teacher),
    )
    return Programs(*dispatch.compile_aside(list(zip(programs, arguments, strict=True))))


def round_programs(method: Method, student_step: StudentStep, plan: Plan) -> Programs:
    """The four programs of a round, each compiled at its first call."""
    return Programs(
        begin=parallel.pmap(begin(method)),
        invert=dispatch.repeat(guard.skipping(method.synthesis.step, INVERSION, parallel.AXIS), method.synthesis.steps),
        finish=parallel.pmap(finish(method), donate=(0,)),
        distill=dispatch.repeat(guarded_distill(method, student_step), plan.distill_steps),
    )


def synthesize(
    programs: Programs, state: TrainState, teacher: Variables, stop: Stop = dispatch.never
) -> tuple[TrainState, History]:
    """The first half of a round: one batch of images more; the state as it was where `stop` came before its end."""
    work = programs.begin(state)
    work, inverted = programs.invert(work, teacher, state.student.variables, stop=stop)
    if stop():
        return state, {}
    state, stored = programs.finish(state, work, teacher)
    return jax.block_until_ready(state), dispatch.fetch(inverted) | dispatch.fetch([stored])


def train_student(
    programs: Programs, state: TrainState, teacher: Variables, steps: int, stop: Stop = dispatch.never
) -> tuple[TrainState, History]:
    """The second half of a round: the student learns for `steps` steps, fewer where `stop` comes between."""
    state, distilled = programs.distill._replace(times=steps)(state, teacher, stop=stop)
    return jax.block_until_ready(state), dispatch.fetch(distilled)


def position(state: TrainState) -> Position:
    """Where a state on the devices is."""
    return Position(*(int(count) for count in jax.device_get(parallel.unreplicate((state.round, state.student.step)))))


def run(
    programs: Programs,
    plan: Plan,
    state: TrainState,
    teacher: Variables,
    clock: Clock,
    on_round: Callable[[int, TrainState, dict[str, float]], TrainState | None],
    stop: Stop = dispatch.never,
    begun: History | None = None,
    begin_student: Begin = lambda rounds, state: state,
) -> tuple[TrainState, History]:
    """Run the plan from wherever `state` stands, also within a round.

    Args:
        state, teacher: placed on the devices.
        clock: context manager factory, stage name -> context, which adds up seconds.
        on_round: called with (rounds done, state, mean metrics) after each round; may return a state to go on with.
        stop: asked between dispatches, with several hosts before each half of a round; once it says so, the state is
            returned as it then is. Saved and run again, it ends with the bits of a run that was not stopped.
        begun: metrics of the round that an earlier run was stopped in.
        begin_student: called with (rounds done, state) once a round has its images, before the student sees them.

    Returns:
        The state, and the metrics of a round that is not at its end.

    Raises:
        FloatingPointError: after `plan.max_skipped` steps in a row that were not finite, or a weight that is not,
            before `on_round` could save it.
    """
    watch, metrics, stopped = guard.Watch(plan.max_skipped), begun or {}, False
    at = position(state)
    while not (stopped or at.finished(plan)):
        due, asked = at.due(plan), hosts.rarely(stop)
        needed, rest = (programs[:3], programs[3:]) if due.synthesis else (programs[3:], programs[:3])
        with clock("compilation"):
            dispatch.wait(needed, rest)
        if due.synthesis:
            with clock("synthesis"):
                state, metrics = synthesize(programs, state, teacher, asked)
            watch.check(INVERSION, metrics, f"round {at.rounds + 1}")
        else:
            with clock("distillation"):
                state, learnt = train_student(programs, state, teacher, due.distill_steps, asked)
            watch.check(DISTILLING, learnt, f"round {at.rounds}")
            metrics = guard.joined(metrics, learnt)
        expected, at = at.after(due), position(state)
        stopped = at != expected
        if due.synthesis and not stopped:
            state = begin_student(at.rounds, state)
        round_done = not stopped and not at.due(plan).distill_steps
        if stopped or round_done:
            guard.check_state(state, at.rounds)
        if round_done:
            state = on_round(at.rounds, state, guard.summary(metrics)) or state
            metrics = {}
    return state, metrics
