"""What a round costs, read off the programs themselves: nothing is run.

FLOPs are those that XLA counts in a step (a multiplication and an addition are two), bytes between
devices those of its collectives, by the ring algorithm. From these and from three numbers of an
accelerator follow the seconds of a round on any number of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.extend.core
from ml_collections import ConfigDict

from ssdkd_jax import build, models
from ssdkd_jax.engine import loop, parallel
from ssdkd_jax.types import Sharded, TrainState


class Device(NamedTuple):
    """An accelerator: FLOP/s sustained, bytes/s to its neighbour, seconds that any collective takes at least."""

    flops: float
    bandwidth: float
    latency: float


class Cost(NamedTuple):
    """Of one device: FLOPs, bytes sent, collectives that wait for one another."""

    flops: float
    bytes: float
    collectives: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, n: int) -> Cost:
        """Of n times the same."""
        return Cost(*(n * value for value in self))

    def seconds(self, device: Device) -> float:
        """Computing and sending one after the other: an upper bound, since they may overlap."""
        return self.flops / device.flops + self.bytes / device.bandwidth + self.collectives * device.latency


def steps(config: ConfigDict, inputs: build.Inputs, devices: int = 1) -> dict[str, tuple[Callable, tuple]]:
    """The four programs of a round as one of `devices` runs them: name -> (function, shapes of its arguments).

    With one device, no axis is bound and nothing is sent.
    """
    axis = parallel.AXIS if devices > 1 else None
    teacher = build.network(config.teacher.model, inputs, axis, config.compute)
    variables = jax.eval_shape(teacher.init, jax.random.key(0))
    job = build.job(config, inputs, teacher, variables, axis)
    state = share(jax.eval_shape(lambda: loop.init(job.method, job.network, job.tx, 0)), devices)
    begin = loop.begin(job.method)
    _, work = jax.make_jaxpr(begin, axis_env=_axes(devices), return_shape=True)(state)
    return {
        "begin": (begin, (state,)),
        "inversion": (job.method.synthesis.step, (work, variables, state.student.variables)),
        "store": (loop.finish(job.method), (state, work, variables)),
        "distillation": (loop.distill(job.method, job.step), (state, variables)),
    }


def repetitions(config: ConfigDict) -> dict[str, int]:
    """How often each of `steps` runs in a round after the warm-up."""
    return {
        "begin": 1,
        "inversion": config.synthesis.inner_steps,
        "store": 1,
        "distillation": config.schedule.distill_steps,
    }


def share(state: TrainState, devices: int) -> TrainState:
    """Shapes of the state on one device: its rows of `Sharded` parts, and all of the rest."""

    def rows(x: Any) -> Any:
        return jax.ShapeDtypeStruct((math.ceil(x.shape[0] / devices), *x.shape[1:]), x.dtype)

    return jax.tree.map(
        lambda x: jax.tree.map(rows, x) if isinstance(x, Sharded) else x,
        state,
        is_leaf=lambda x: isinstance(x, Sharded),
    )


def flops(config: ConfigDict, inputs: build.Inputs) -> dict[str, float]:
    """FLOPs of each step at the config's batches, on one device; see `models.operations`."""
    return {name: models.operations(step, *arguments) for name, (step, arguments) in steps(config, inputs).items()}


def model(config: ConfigDict, inputs: build.Inputs) -> Callable[[int], dict[str, Cost]]:
    """Number of devices -> cost of each step on one of them, at the config's global batches.

    FLOPs are taken as a line in the batch: what belongs to its rows is divided by the devices, what
    does not (optimisers, the sampler over all slots) is done by each.
    """
    whole, half = flops(config, inputs), flops(_halved(config), inputs)
    fixed = {name: max(0.0, 2 * half[name] - whole[name]) for name in whole}
    passed = {name: payload(*program) for name, program in steps(config, inputs, devices=2).items()}

    def on(devices: int) -> dict[str, Cost]:
        return {
            name: Cost(
                fixed[name] + (whole[name] - fixed[name]) / devices,
                (devices - 1) / devices * passed[name][0],
                passed[name][1] if devices > 1 else 0,
            )
            for name in whole
        }

    return on


def a_round(config: ConfigDict, each: dict[str, Cost]) -> Cost:
    """Cost of a round from those of its steps."""
    times = repetitions(config)
    return sum((cost.times(times[name]) for name, cost in each.items()), Cost(0, 0, 0))


def payload(step: Callable, arguments: tuple) -> tuple[float, int]:
    """(bytes, collectives in a row) of a step: of D devices in a ring, each sends (D - 1) / D of the bytes.

    A sum goes around twice, once to be formed and once to be told. Collectives that do not wait for
    one another count as one, since XLA combines them: the second number is their longest chain. The
    step is traced for two devices, whose number changes none of these.
    """
    closed = jax.make_jaxpr(step, axis_env=_axes(2))(*arguments)
    passed, ends = _followed(closed.jaxpr, [0] * len(closed.jaxpr.invars))
    return passed, max(ends, default=0)


def _followed(jaxpr: Any, starts: list[int]) -> tuple[float, list[int]]:
    """Bytes of all collectives of a program, and how many in a row stand before each of its results."""
    before, passed = dict(zip(jaxpr.invars, starts, strict=True)), 0.0
    for equation in jaxpr.eqns:
        depths = [0 if isinstance(v, jax.extend.core.Literal) else before.get(v, 0) for v in equation.invars]
        sent = _passed(equation)
        ends = [max(depths, default=0) + (sent > 0)] * len(equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            same = len(inner.invars) == len(depths)
            more, inner_ends = _followed(inner, depths if same else [max(depths, default=0)] * len(inner.invars))
            sent += more
            ends = inner_ends if same and len(inner_ends) == len(ends) else [max([*ends, *inner_ends])] * len(ends)
        passed += sent
        before |= dict(zip(equation.outvars, ends, strict=True))
    return passed, [0 if isinstance(v, jax.extend.core.Literal) else before.get(v, 0) for v in jaxpr.outvars]


def _passed(equation: Any) -> float:
    """Bytes of a collective, 0 for everything else."""
    name = equation.primitive.name
    if name.startswith(("psum", "pmin", "pmax")):
        return 2 * _bytes(equation.invars)
    if name == "reduce_scatter":
        return _bytes(equation.invars)
    return _bytes(equation.outvars) if name == "all_gather" else 0


def _axes(devices: int) -> list[tuple[str, int]]:
    return [(parallel.AXIS, devices)] if devices > 1 else []


def _halved(config: ConfigDict) -> ConfigDict:
    config = config.copy_and_resolve_references()
    for part in (config.synthesis, config.student):
        part.batch //= 2
    return config


def _bytes(variables: list) -> int:
    return sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in variables)
