"""Real images by which a student is judged: a pair of arrays, or a function of a classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ssdkd_jax import augment, build
from ssdkd_jax.engine import evaluation as engine
from ssdkd_jax.engine import parallel
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop.images import as_float
from ssdkd_jax.interop.saved import Classifier
from ssdkd_jax.run import evaluation
from ssdkd_jax.run.summary import NOT_SCORES
from ssdkd_jax.types import Network, Variables

if TYPE_CHECKING:
    from ml_collections import ConfigDict

Function = Callable[[Classifier], float | Mapping[str, float]]
Evaluate = tuple[np.ndarray, np.ndarray] | Function
SCORE = "score"  # of a function that answers a number


def judge_of(evaluate: Evaluate | None, config: ConfigDict, teacher: Classifier) -> evaluation.Judge:
    """What judges the networks of a run.

    Raises:
        InputError: for images or labels that do not fit the teacher.
    """
    if evaluate is None:
        return evaluation.without_data()
    if callable(evaluate):
        return by_function(evaluate, teacher)
    if not isinstance(evaluate, tuple | list) or len(evaluate) != 2:
        raise InputError(
            f"evaluate is a {type(evaluate).__name__}; give (images, labels), or a function of a classifier."
        )
    return by_arrays(*evaluate, config, teacher)


def by_arrays(images: Any, labels: Any, config: ConfigDict, teacher: Classifier) -> evaluation.Judge:
    """By labelled images: uint8, or in [0, 1]; a label an image, or a pixel."""
    task, labels = build.task(config, teacher.classes), np.asarray(labels)
    raw, as_given = np.asarray(images), np.asarray(as_float(images, teacher.image_shape))
    if not len(as_given):
        raise InputError("evaluate holds no image; give at least one, or None.")
    wanted = as_given.shape[:3] if task.score == "miou" else as_given.shape[:1]
    fitting = labels.shape == wanted and np.issubdtype(labels.dtype, np.integer)
    known = labels[labels != augment.UNLABELLED] if labels.ndim > 1 else labels
    if not fitting or known.min(initial=0) < 0 or known.max(initial=0) >= teacher.classes:
        raise InputError(
            f"evaluate holds labels of type {labels.dtype} and shape {list(labels.shape)}; give whole numbers from 0 "
            f"to {teacher.classes - 1} of shape {list(wanted)}."
        )
    kept = raw if raw.dtype == np.uint8 else as_given
    batch = evaluation.at_once(*teacher.image_shape[:2])
    labels = labels.astype(np.int32)
    return evaluation.Judge(task.score, lambda network: engine.make(network, task, kept, labels, batch))


def by_function(function: Function, teacher: Classifier) -> evaluation.Judge:
    """By a function of a classifier, to a number or a dict of them, of which the first counts."""

    def scores(network: Network) -> Callable[[Variables], dict[str, float]]:
        def judged(variables: Variables) -> dict[str, float]:
            return named(function(Classifier(network, parallel.to_host(variables), teacher.inputs, "student")))

        return judged

    first = next(iter(named(function(teacher))))
    return evaluation.Judge(first, scores)


def named(answer: Any) -> dict[str, float]:
    """What the function of a user answers, as name -> number; `test_` goes before a name that the run itself uses.

    Raises:
        InputError: for another answer.
    """
    found = answer if isinstance(answer, Mapping) else {SCORE: answer}
    arrays = [np.asarray(value) for value in found.values()]
    if arrays and all(array.shape == () and np.can_cast(array.dtype, np.float64) for array in arrays):
        return {f"test_{name}" if name in NOT_SCORES else str(name): float(found[name]) for name in found}
    raise InputError(f"evaluate answers {answer!r}; let it answer a number, or a dict of numbers.")
