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


class Repeat(NamedTuple):
    """A step to run `times` times: (carry, *fixed) -> (carry, metrics over time, see `fetch`).

    The place that decides how many steps one dispatch holds: up to `DISPATCH`, looped over, on an
    accelerator; one on a CPU, where XLA runs a convolution inside a loop 45-90 times slower.

    Attributes:
        program: of one dispatch; where `looped`, its second argument says of how many steps.
        times: how many steps there are.
        looped: whether a dispatch holds several.
    """

    program: Callable
    times: int
    looped: bool

    def __call__(self, carry: Any, *fixed: Any, stop: Callable[[], bool] = never) -> tuple[Any, list]:
        """Run; once `stop` says so, no further step is dispatched, and the metrics are of those that were."""
        history, left = [], self.times
        while left and not stop():
            steps = min(left, DISPATCH) if self.looped else 1
            number = (np.full(jax.local_device_count(), steps, np.int32),) if self.looped else ()
            carry, metrics = self.program(carry, *number, *fixed)
            history.append(jax.tree.map(lambda m, n=steps: m[:, :n], metrics) if self.looped else metrics)
            if len(history) > 1:
                jax.block_until_ready(history[-2])  # no more than one waits its turn, so that a stop comes soon
            left -= steps
        return carry, history


def repeat(step: Callable, times: int, looped: bool | None = None) -> Repeat:
    """`step` (carry, *fixed) -> (carry, metrics), to be run `times` times with the carry donated."""
    looped = jax.default_backend() != "cpu" if looped is None else looped

    def one(carry: Any, *fixed: Any) -> tuple[Any, Any]:
        carry, metrics = step(carry, *fixed)
        return carry, jax.tree.map(lambda m: m[None], metrics)

    def loop(carry: Any, steps: Array, *fixed: Any) -> tuple[Any, Any]:
        shapes = jax.eval_shape(step, carry, *fixed)[1]
        history = jax.tree.map(lambda m: jnp.zeros((min(times, DISPATCH), *m.shape), m.dtype), shapes)

        def body(number: Array, state: tuple[Any, Any]) -> tuple[Any, Any]:
            carry, metrics = step(state[0], *fixed)
            return carry, jax.tree.map(lambda h, m: h.at[number].set(m), state[1], metrics)

        return lax.fori_loop(0, steps, body, (carry, history))

    return Repeat(parallel.pmap(loop if looped else one, donate=(0,)), times, looped)


def compile_together(programs: Sequence[tuple[Callable | Repeat, tuple]]) -> list[Callable]:
    """Compile (program, example arguments or their shapes) pairs at once, one thread each.

    The results take arguments of exactly those shapes, and so never compile again. With several
    hosts, each compiles at its first call instead: a compiled pmap takes no host's own arrays.
    """
    if jax.process_count() > 1:
        return [program for program, _ in programs]
    lowered = [_lower(program, arguments) for program, arguments in programs]
    with ThreadPoolExecutor(len(lowered)) as pool:
        compiled = list(pool.map(lambda program: program.compile(), lowered))
    return [
        p._replace(program=done) if isinstance(p, Repeat) else done
        for (p, _), done in zip(programs, compiled, strict=True)
    ]


def _lower(program: Callable | Repeat, arguments: tuple) -> Any:
    if not isinstance(program, Repeat):
        return program.lower(*arguments)
    number = (jax.ShapeDtypeStruct((jax.local_device_count(),), jnp.int32),) if program.looped else ()
    return program.program.lower(arguments[0], *number, *arguments[1:])


def fetch(history: list[Any]) -> dict[str, np.ndarray]:
    """The metrics of `Repeat` on the host: name -> [steps]; nothing where no step was taken."""
    parts = jax.device_get([parallel.unreplicate(metrics) for metrics in history])
    return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in (parts[0] if parts else ())}
