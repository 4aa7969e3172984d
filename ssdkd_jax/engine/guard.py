"""A step whose loss or gradient is not finite is skipped, and counted; many in a row stop the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssdkd_jax.engine import parallel
from ssdkd_jax.errors import NotFiniteError
from ssdkd_jax.types import Array, Metrics, TrainState

SKIPPED = "_skipped"
Step = Callable[..., tuple[Any, Metrics]]


def skipping(step: Step, stage: str, axis: str | None) -> Step:
    """`step` (carry, *fixed) -> (carry, metrics), which leaves the carry as it was where it is not finite.

    That is where a metric is not finite, or a number of the carry was and is no longer, on any
    device. Counters and keys of the carry go on, so that the next step is another one. A finite
    step is the step itself, but that XLA may fuse the choice with it and so round some sum the other
    way. The metrics say 1 or 0 under STAGE_skipped.
    """

    def run(carry: Any, *fixed: Any) -> tuple[Any, Metrics]:
        new, metrics = step(carry, *fixed)
        changed = [
            (old, value)
            for old, value in zip(jax.tree.leaves(carry), jax.tree.leaves(new), strict=True)
            if value is not old and _is_float(value)
        ]
        lost = [jnp.any(jnp.isfinite(old) & ~jnp.isfinite(value)) for old, value in changed]
        lost += [~jnp.isfinite(value).all() for value in metrics.values()]
        skip = parallel.total(jnp.any(jnp.array(lost)).astype(jnp.float32), axis) > 0
        kept = jax.tree.map(
            lambda old, value: jnp.where(skip, old, value) if value is not old and _is_float(value) else value,
            carry,
            new,
        )
        return kept, {**metrics, stage + SKIPPED: skip.astype(jnp.float32)}

    return run


def _is_float(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


class Watch:
    """Follows the skipped steps of each stage, over rounds.

    Args:
        limit: how many in a row stop the run; 1 stops at the first.
    """

    def __init__(self, limit: int):
        self.limit, self.in_a_row = limit, {}

    def check(self, stage: str, history: dict[str, np.ndarray], where: str) -> None:
        """Go through the metrics of one stage: name -> [steps], or [1] where it is one of the round.

        Raises:
            FloatingPointError: at the last of `limit` skipped steps in a row, which names the terms.
        """
        for step, skipped in enumerate(history.get(stage + SKIPPED, ())):
            self.in_a_row[stage] = self.in_a_row.get(stage, 0) + 1 if skipped else 0
            if skipped and self.in_a_row[stage] >= self.limit:
                reported = {name: values[step] for name, values in history.items() if step < len(values)}
                bad = [f"'{name}' is {value}" for name, value in reported.items() if not _finite(value)]
                raise NotFiniteError(
                    f"{', '.join(bad) or f'the gradient of {stage} is not finite'} in {where}, step {step + 1} "
                    f"({self.in_a_row[stage]} skipped in a row); the last good checkpoint is kept: lower the "
                    "learning rate of that stage and start again."
                )


def _finite(value: np.ndarray) -> bool:
    return bool(np.isfinite(value).all())


def joined(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Two histories, name -> [steps], one after the other."""
    return first | {name: np.concatenate([first.get(name, values[:0]), values]) for name, values in second.items()}


def summary(history: dict[str, np.ndarray]) -> dict[str, float]:
    """The mean of each metric over the steps where it was finite; the number of skipped steps."""
    return {
        name: float(values.sum() if name.endswith(SKIPPED) else _mean(values[np.isfinite(values)]))
        for name, values in history.items()
    }


def add_skipped(skipped: dict[str, int], metrics: dict[str, float]) -> None:
    """Add a round's steps that were not finite to those of earlier rounds."""
    for name, count in metrics.items():
        if name.endswith(SKIPPED):
            skipped[name] = skipped.get(name, 0) + int(count)


def _mean(values: np.ndarray) -> float:
    return values.mean() if values.size else np.nan


def check_state(state: TrainState, rounds: int) -> None:
    """Raise FloatingPointError, which names the array, where the state after `rounds` rounds is not finite."""
    for name in parallel.not_finite(state):
        raise NotFiniteError(
            f"'{name}' is not finite after round {rounds}; the last good checkpoint is kept: lower the "
            "learning rate of that stage and start again."
        )
