"""A protocol: pairs of a teacher and a student, which of them serve for tuning, and what the two of a pair cost."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

import ssdkd_jax
from ssdkd_jax import models
from ssdkd_jax.api import rules, students
from ssdkd_jax.errors import InputError, MissingError

ROLES = ("tuning", "held")
MOST = 0.5  # of its teacher's parameters, and of its FLOPs, that a student may have


class Recipe(NamedTuple):
    """How a teacher is trained.

    Attributes:
        seen: images in all, each as often as the others.
        lr: the highest learning rate.
        optimiser: 'sgd', with momentum, or 'adam'.
        weight_decay: of the optimiser; decoupled with 'adam'.
        smoothing: of the labels.
        shift: pixels by which an image is moved at most.
        flip: half of the images are mirrored.
        mean, std: of the normalisation; None: those of the training images.
    """

    seen: int
    lr: float
    optimiser: str = "sgd"
    weight_decay: float = 0.0
    smoothing: float = 0.0
    shift: int = 0
    flip: bool = False
    mean: float | None = None
    std: float | None = None


class Pair(NamedTuple):
    """A teacher and its student.

    Attributes:
        name: of the teacher.
        role: 'tuning' or 'held'.
        data: of experiments/sets.py.
        network: 'name', of experiments/torch_networks.py, and its options.
        recipe: how the teacher is trained.
        student: as `ssdkd_jax.distill` takes it.
    """

    name: str
    role: str
    data: str
    network: Mapping[str, Any]
    recipe: Recipe
    student: str


class Protocol(NamedTuple):
    """All pairs, by name, and the seconds that each student has."""

    seconds: float
    pairs: Mapping[str, Pair]

    def of(self, role: str) -> dict[str, Pair]:
        """The pairs of a role."""
        return {name: pair for name, pair in self.pairs.items() if pair.role == role}


def read(path: Path) -> Protocol:
    """The protocol of a file.

    Raises:
        InputError: for a file that is none, a pair whose fields are not those of `Pair`, or a name that is there twice.
    """
    if not path.exists():
        raise MissingError(f"There is no protocol '{path}'; see experiments/protocols.")
    try:
        content = tomllib.loads(path.read_text())
        pairs = [Pair(**{**pair, "recipe": Recipe(**pair["recipe"])}) for pair in content["pair"]]
        found = Protocol(float(content["seconds"]), {pair.name: pair for pair in pairs})
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' is no protocol ({error}); see experiments/protocols.") from error
    if len(found.pairs) < len(pairs) or any(pair.role not in ROLES for pair in pairs):
        raise InputError(f"'{path}' has a name twice, or a role that is not one of {', '.join(ROLES)}.")
    return found


def costs(teacher: ssdkd_jax.Teacher, student: str) -> dict[str, float]:
    """Parameters, and FLOPs an image, of a teacher and of its student; nothing is computed."""
    network = students.bound(student, teacher, axis=None)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    of_teacher, of_student = rules.costs(teacher, network)
    return {
        **{"teacher_parameters": teacher.parameters, "student_parameters": models.parameter_count(variables)},
        **{"teacher_flops": of_teacher, "student_flops": of_student},
    }


def check_costs(name: str, found: Mapping[str, float]) -> None:
    """Raise InputError where a student has more than half of its teacher's parameters or FLOPs."""
    for what in ("parameters", "flops"):
        share = found[f"student_{what}"] / found[f"teacher_{what}"]
        if not share <= MOST:
            raise InputError(f"The student of {name} has {share:.3f} of its teacher's {what}; at most {MOST:g} count.")
