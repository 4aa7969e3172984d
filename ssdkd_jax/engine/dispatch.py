"""How many steps one dispatch to the devices holds, and when the host may stop between them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from ssdkd_jax.engine import environment, parallel

DISPATCH = 32  # steps


def never() -> bool:
    """Nobody asks to stop."""
    return False


class Dispatch(NamedTuple):
    """What goes to the devices at once: `length` steps as one program, or one step where fewer remain.

    Attributes:
        length: 1 on a CPU, where XLA runs a convolution inside a loop 45-90 times slower.
        many, one: (carry, *fixed) -> (carry, metrics over time) of `length` steps, and of one.
    """

    length: int
    many: Callable
    one: Callable

    def __call__(self, remaining: int, carry: Any, *fixed: Any) -> tuple[Any, Any, int]:
        """The carry after a dispatch of at most `remaining` steps, the metrics of each, and how many they were."""
        if remaining < self.length:
            return *self.one(carry, *fixed), 1
        return *self.many(carry, *fixed), self.length

    def lower(self, carry: Any, *fixed: Any) -> Any:
        """The program of many steps, ready to be compiled for arguments of these shapes."""
        return self.many.lower(carry, *fixed)

    def compiled(self, executable: Callable) -> Dispatch:
        """The same with its program of many steps compiled; that of one, where it is another, is at its first call."""
        return self._replace(many=executable, one=executable if self.length == 1 else self.one)


class Repeat(NamedTuple):
    """A step to run `times` times: (carry, *fixed) -> (carry, metrics over time, see `fetch`)."""

    dispatch: Dispatch
    times: int

    def __call__(self, carry: Any, *fixed: Any, stop: Callable[[], bool] = never) -> tuple[Any, list]:
        """Run; when `stop` says so, no further step is dispatched, and the metrics are of those that were."""
        history, remaining = [], self.times
        while remaining and not stop():
            carry, metrics, steps = self.dispatch(remaining, carry, *fixed)
            history.append(metrics)
            if len(history) > 1:
                jax.block_until_ready(history[-2])  # no more than one waits its turn, so that a stop comes soon
            remaining -= steps
        return carry, history


def repeat(step: Callable, times: int, looped: bool | None = None) -> Repeat:
    """`step` (carry, *fixed) -> (carry, metrics), to be run `times` times with the carry donated.

    Args:
        looped: whether a dispatch holds several steps; None: where there is an accelerator.
    """
    looped = jax.default_backend() != "cpu" if looped is None else looped
    length = steps_at_once(times) if looped else 1

    def program(length: int) -> Callable:
        def run(carry: Any, *fixed: Any) -> tuple[Any, Any]:
            if length == 1:
                carry, metrics = step(carry, *fixed)
                return carry, jax.tree.map(lambda m: m[None], metrics)
            return lax.scan(lambda carry, _: step(carry, *fixed), carry, length=length)

        return parallel.pmap(run, donate=(0,))

    many = program(length)
    return Repeat(Dispatch(length, many, many if length == 1 else program(1)), times)


def steps_at_once(times: int) -> int:
    """The length of a loop for so many steps, known when it is compiled: a device that has to ask waits for the host.

    The largest divisor up to `DISPATCH`, or `DISPATCH` itself where that is less than half of it, so that the rest
    goes step by step.
    """
    if times <= DISPATCH:
        return times
    divisor = max(length for length in range(1, DISPATCH + 1) if times % length == 0)
    return divisor if 2 * divisor >= DISPATCH else DISPATCH


class Pending(NamedTuple):
    """A program that is being compiled; a call waits for it."""

    executable: Future[Callable]

    def __call__(self, *arguments: Any) -> Any:
        return self.executable.result()(*arguments)


def compile_aside(programs: Sequence[tuple[Callable | Repeat, tuple]]) -> list[Callable | Repeat]:
    """Begin to compile (program, example arguments or their shapes) pairs, in this order, and return at once.

    The results take arguments of exactly those shapes, and so never compile again. With several
    hosts, each compiles at its first call instead: a compiled pmap takes no host's own arrays.
    """
    if jax.process_count() > 1:
        return [program for program, _ in programs]
    pool = ThreadPoolExecutor(max(1, processors() // 2))  # XLA shares one program out to about two
    begun: list[Callable | Repeat] = []
    options = environment.compiler_options(jax.default_backend())
    try:
        for program, arguments in programs:
            if isinstance(program, Repeat):
                pending = Pending(pool.submit(program.dispatch.lower(*arguments).compile, options))
                begun.append(program._replace(dispatch=program.dispatch.compiled(pending)))
            else:
                begun.append(Pending(pool.submit(program.lower(*arguments).compile, options)))
    except BaseException:
        cancel(begun)
        raise
    finally:
        pool.shutdown(wait=False)
    return begun


def processors() -> int:
    """How many this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wait(programs: Sequence[Callable | Repeat], others: Sequence[Callable | Repeat] = ()) -> list[Callable | Repeat]:
    """The same programs once they are compiled.

    An error of XLA's passes through; one of `others` does, too, as far as they are known to be compiled by then.
    """
    for pending in _pending(others):
        if pending.executable.done():
            pending.executable.result()
    for pending in _pending(programs):
        pending.executable.result()
    return [_finished(program) for program in programs]


def cancel(programs: Sequence[Callable | Repeat]) -> None:
    """Compile none that is not begun: the process could not end before."""
    for pending in _pending(programs):
        pending.executable.cancel()


@contextlib.contextmanager
def cancelling(programs: Sequence[Callable | Repeat]) -> Iterator[None]:
    """`cancel` at the end, whatever ends it."""
    try:
        yield
    finally:
        cancel(programs)


def _pending(programs: Sequence[Callable | Repeat]) -> Iterator[Pending]:
    for program in programs:
        many = getattr(program.dispatch, "many", None) if isinstance(program, Repeat) else program
        if isinstance(many, Pending):
            yield many


def _finished(program: Callable | Repeat) -> Callable | Repeat:
    for pending in _pending([program]):
        executable = pending.executable.result()
        repeated = isinstance(program, Repeat)
        return program._replace(dispatch=program.dispatch.compiled(executable)) if repeated else executable
    return program


def fetch(history: list[Any]) -> dict[str, np.ndarray]:
    """The metrics of `Repeat` on the host: name -> [steps]; {} where no step was taken."""
    parts = jax.device_get([parallel.unreplicate(metrics) for metrics in history])
    return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in (parts[0] if parts else ())}
