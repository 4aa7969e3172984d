"""The pmapped round: synthesize, then sample -> distill -> feedback repeated; knows no method's name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssdkd_jax import optimization, parallel
from ssdkd_jax.types import Array, Batch, Key, Method, Metrics, ModelState, TrainState, Variables

SYNTHESIS, DISTILLATION, METHOD, STUDENT = range(4)
StudentStep = Callable[[ModelState, Batch], tuple[ModelState, Array, Metrics]]
Clock = Callable[[str], AbstractContextManager]


class Plan(NamedTuple):
    """How long a run is: `rounds` in all, of which the first `warmup` only make images."""

    rounds: int
    warmup: int
    distill_steps: int


class Programs(NamedTuple):
    """The compiled programs of a round, in the order in which they run."""

    begin: Callable
    invert: Callable
    finish: Callable
    distill: Callable


def init(method: Method, network: Any, tx: Any, seed: int) -> TrainState:
    """The state before the first round, on the host side: not yet placed on devices."""
    key = jax.random.key_data(jax.random.key(seed))
    return TrainState(
        method=method.init(stage_key(key, METHOD)),
        student=optimization.init(network, tx, stage_key(key, STUDENT)),
        round=jnp.zeros((), jnp.int32),
        key=key,
    )


def stage_key(key: Array, stage: int, step: Array | int = 0) -> Key:
    """The key of step `step` of a stage: resuming needs no other random state."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(key), stage), step)


def begin(method: Method) -> Callable:
    """state -> work."""

    def run(state: TrainState) -> Any:
        return method.synthesis.begin(state.method, stage_key(state.key, SYNTHESIS, 2 * state.round))

    return run


def finish(method: Method) -> Callable:
    """(state, work, teacher variables) -> (state, metrics)."""

    def run(state: TrainState, work: Any, teacher: Variables) -> tuple[TrainState, Metrics]:
        key = stage_key(state.key, SYNTHESIS, 2 * state.round + 1)
        made, metrics = method.synthesis.finish(work, state.method, teacher, state.student, key)
        return state.replace(method=made, round=state.round + 1), metrics

    return run


def distill(method: Method, student_step: StudentStep) -> Callable:
    """(state, teacher variables) -> (state, metrics): sample, distill, feedback."""

    def run(state: TrainState, teacher: Variables) -> tuple[TrainState, Metrics]:
        number = state.student.step
        batch = method.sample(state.method, teacher, number, stage_key(state.key, DISTILLATION, number))
        student, gaps, metrics = student_step(state.student, batch)
        answered = method.feedback(state.method, batch, gaps, number)
        return state.replace(method=answered, student=student), metrics

    return run


def compile_round(
    method: Method, student_step: StudentStep, plan: Plan, state: TrainState, teacher: Variables
) -> Programs:
    """Compile the four programs of a round at once, for a state placed on the devices."""
    programs = Programs(
        begin=parallel.pmap(begin(method)),
        invert=parallel.repeat(method.synthesis.step, method.synthesis.steps),
        finish=parallel.pmap(finish(method), donate=(0,)),
        distill=parallel.repeat(distill(method, student_step), plan.distill_steps),
    )
    work = jax.eval_shape(programs.begin, state)
    arguments = Programs(
        begin=(state,),
        invert=(work, teacher, state.student.variables),
        finish=(state, work, teacher),
        distill=(state, teacher),
    )
    return Programs(*parallel.compile_together(list(zip(programs, arguments, strict=True))))


def run_round(
    programs: Programs, state: TrainState, teacher: Variables, clock: Clock, distilling: bool
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """One round; the metrics are arrays over the steps that measured them."""
    with clock("synthesis"):
        work = programs.begin(state)
        work, inverted = programs.invert(work, teacher, state.student.variables)
        state, stored = programs.finish(state, work, teacher)
        jax.block_until_ready(state)
    history = parallel.fetch(inverted) | parallel.fetch([stored])
    if distilling:
        with clock("distillation"):
            state, distilled = programs.distill(state, teacher)
            jax.block_until_ready(state)
        history |= parallel.fetch(distilled)
    return state, history


def run(
    programs: Programs,
    plan: Plan,
    state: TrainState,
    teacher: Variables,
    clock: Clock,
    on_round: Callable[[int, TrainState, dict[str, float]], None],
) -> TrainState:
    """Run the plan from wherever `state` stands.

    Args:
        state, teacher: placed on the devices.
        clock: context manager factory, stage name -> context, which adds up seconds.
        on_round: called with (rounds done, state, mean metrics) after each round.

    Raises:
        FloatingPointError: at the first loss or weight that is not finite, before `on_round` could save it.
    """
    for number in range(int(parallel.unreplicate(state.round)), plan.rounds):
        state, history = run_round(programs, state, teacher, clock, number >= plan.warmup)
        check_finite(history, number)
        check_state(state, number)
        on_round(number + 1, state, {name: float(values.mean()) for name, values in history.items()})
    return state


def check_finite(history: dict[str, np.ndarray], number: int) -> None:
    """Raise FloatingPointError, which names the round, the step and the term, where a metric is not finite."""
    for name, values in history.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise FloatingPointError(
                f"'{name}' is {values[bad[0]]} in round {number + 1}, step {bad[0] + 1}; the last good checkpoint "
                "is kept: lower the learning rate of that stage and start again."
            )


def check_state(state: TrainState, number: int) -> None:
    """Raise FloatingPointError, which names the array, where the state after a round is not finite.

    The losses of a round were measured before its last update, and so do not tell of it.
    """
    for name in parallel.not_finite(state):
        raise FloatingPointError(
            f"'{name}' is not finite after round {number + 1}; the last good checkpoint is kept: lower the "
            "learning rate of that stage and start again."
        )
