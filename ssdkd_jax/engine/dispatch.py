"""How many steps one dispatch to the devices holds, and when the host may stop between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ssdkd_jax.engine import parallel
from ssdkd_jax.types import Array

DISPATCH = 32  # steps


def never() -> bool:
    """Nobody asks to stop."""
    return False


class Single(NamedTuple):
    """A dispatch of one step, for a CPU: there XLA runs a convolution inside a loop 45-90 times slower.

    Attributes:
        program: (carry, *fixed) -> (carry, metrics over time).
    """

    program: Callable

    def __call__(self, remaining: int, carry: Any, *fixed: Any) -> tuple[Any, Any, int]:
        """The carry after a dispatch of at most `remaining` steps, the metrics of each, and how many they were."""
        return *self.program(carry, *fixed), 1

    def lower(self, carry: Any, *fixed: Any) -> Any:
        """The program, ready to be compiled for arguments of these shapes."""
        return self.program.lower(carry, *fixed)


class Looped(NamedTuple):
    """A dispatch of up to `DISPATCH` steps in a loop, for an accelerator; its functions are those of `Single`.

    Attributes:
        program: (carry, how many steps, *fixed) -> (carry, metrics over time, padded to the longest loop).
    """

    program: Callable

    def __call__(self, remaining: int, carry: Any, *fixed: Any) -> tuple[Any, Any, int]:
        steps = min(remaining, DISPATCH)
        carry, metrics = self.program(carry, np.full(jax.local_device_count(), steps, np.int32), *fixed)
        return carry, jax.tree.map(lambda m: m[:, :steps], metrics), steps

    def lower(self, carry: Any, *fixed: Any) -> Any:
        steps = jax.ShapeDtypeStruct((jax.local_device_count(),), jnp.int32)
        return self.program.lower(carry, steps, *fixed)


class Repeat(NamedTuple):
    """A step to run `times` times: (carry, *fixed) -> (carry, metrics over time, see `fetch`)."""

    dispatch: Single | Looped
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

    def one(carry: Any, *fixed: Any) -> tuple[Any, Any]:
        carry, metrics = step(carry, *fixed)
        return carry, jax.tree.map(lambda m: m[None], metrics)

    def loop(carry: Any, steps: Array, *fixed: Any) -> tuple[Any, Any]:
        shapes = jax.eval_shape(step, carry, *fixed)[1]
        history = jax.tree.map(lambda m: jnp.zeros((min(times, DISPATCH), *m.shape), m.dtype), shapes)

        def body(index: Array, state: tuple[Any, Any]) -> tuple[Any, Any]:
            carry, metrics = step(state[0], *fixed)
            return carry, jax.tree.map(lambda h, m: h.at[index].set(m), state[1], metrics)

        return lax.fori_loop(0, steps, body, (carry, history))

    if looped is None:
        looped = jax.default_backend() != "cpu"
    dispatch = Looped(parallel.pmap(loop, donate=(0,))) if looped else Single(parallel.pmap(one, donate=(0,)))
    return Repeat(dispatch, times)


def compile_together(programs: Sequence[tuple[Callable | Repeat, tuple]]) -> list[Callable]:
    """Compile (program, example arguments or their shapes) pairs at once, one thread each.

    The results take arguments of exactly those shapes, and so never compile again. With several
    hosts, each compiles at its first call instead: a compiled pmap takes no host's own arrays.
    """
    if jax.process_count() > 1:
        return [program for program, _ in programs]
    lowered = [
        (program.dispatch if isinstance(program, Repeat) else program).lower(*arguments)
        for program, arguments in programs
    ]
    with ThreadPoolExecutor(len(lowered)) as pool:
        compiled = list(pool.map(lambda program: program.compile(), lowered))
    return [_compiled(program, executable) for (program, _), executable in zip(programs, compiled, strict=True)]


def _compiled(program: Callable | Repeat, executable: Callable) -> Callable:
    if isinstance(program, Repeat):
        return program._replace(dispatch=program.dispatch._replace(program=executable))
    return executable


def fetch(history: list[Any]) -> dict[str, np.ndarray]:
    """The metrics of `Repeat` on the host: name -> [steps]; {} where no step was taken."""
    parts = jax.device_get([parallel.unreplicate(metrics) for metrics in history])
    return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in (parts[0] if parts else ())}
