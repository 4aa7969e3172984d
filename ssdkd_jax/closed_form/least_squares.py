"""Linear maps of least squares, and the channels from which the others are best told; on the host."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg

RIDGES = (1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # in units of the mean variance of what is seen
ROUNDING = 1e-7  # of what is seen; the variance of a constant is of that size, and may be negative
LARGE = 1500  # unknowns for an output, from which each ridge takes seconds


class Moments(NamedTuple):
    """Of rows [R, c + d], what is seen beside what is wanted.

    Attributes:
        rows: R.
        mean: [c + d].
        square: the mean of their products, [c + d, c + d].
        inputs: c.
    """

    rows: int
    mean: np.ndarray
    square: np.ndarray
    inputs: int

    def __add__(self, other: Moments) -> Moments:
        """Of the rows of both."""
        rows = self.rows + other.rows
        share = self.rows / rows
        mean, square = (share * a + (1 - share) * b for a, b in zip(self[1:3], other[1:3], strict=True))
        return Moments(rows, mean, square, self.inputs)

    def centred(self, intercept: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of what is seen, of both, and of what is wanted; about their means where there is an intercept."""
        square = self.square - np.outer(self.mean, self.mean) if intercept else self.square
        c = self.inputs
        return square[:c, :c], square[:c, c:], square[c:, c:]

    def made(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance [d] of seen W."""
        gram, _, _ = self.centred(True)
        return self.mean[: self.inputs] @ weights, (weights * (gram @ weights)).sum(0)


def moments(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> Moments:
    """Of (seen [R, c], wanted [R, d]), in parts; products in float32, about the first part's means, sums in float64.

    Axes before these are those of problems side by side, and stand first in the moments, too.
    """
    found, about = None, np.zeros(0, np.float32)
    for seen, wanted in parts:
        both = np.concatenate([seen, wanted], -1, dtype=np.float32)
        about = about if about.size else both.mean(-2)
        both -= about[..., None, :]
        rows, square = both.shape[-2], both.swapaxes(-2, -1) @ both
        part = Moments(rows, both.mean(-2, dtype=np.float64), square / rows, seen.shape[-1])
        found = found + part if found else part
    mean = found.mean + about
    square = found.square + found.mean[..., None] * about[..., None, :] + about[..., None] * mean[..., None, :]
    return found._replace(mean=mean, square=square)


def solve(known: Moments, ridge: float, intercept: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """(W [c, d], b [d]) with the least mean |seen W + b - wanted|^2 + ridge |W|^2.

    Args:
        ridge: in units of the mean variance of what is seen; raised tenfold until there is one solution.
        intercept: False keeps b at 0.
    """
    gram, cross, _ = known.centred(intercept)
    c = known.inputs
    unit = max(np.trace(gram), ROUNDING * np.trace(known.square[:c, :c])) / c + np.finfo(np.float32).tiny
    while True:
        try:
            factor = scipy.linalg.cho_factor(gram + ridge * unit * np.eye(c))
            break
        except np.linalg.LinAlgError:
            ridge *= 10
    weights = scipy.linalg.cho_solve(factor, cross)
    offset = known.mean[c:] - known.mean[:c] @ weights
    return weights, offset if intercept else 0 * offset


def solve_held(
    known: Moments, held: Moments, intercept: bool = True, ridges: Sequence[float] = RIDGES
) -> tuple[np.ndarray, np.ndarray]:
    """As `solve` from all rows, with the ridge under which the known rows tell the held-back ones best."""
    ridges = ridges if known.inputs < LARGE else ridges[1::2]
    errors = [unexplained(held, *solve(known, ridge, intercept)) for ridge in ridges]
    return solve(known + held, ridges[int(np.argmin(errors))], intercept)


def unexplained(rows: Moments, weights: np.ndarray, offset: np.ndarray) -> float:
    """mean |seen W + b - wanted|^2 as a share of the variance of what is wanted, the mean over the outputs."""
    c = rows.inputs
    _, _, power = rows.centred(True)
    gram, cross, wanted = rows.centred(False)
    error = np.diag(wanted) - 2 * (weights * cross).sum(0) + (weights * (gram @ weights)).sum(0)
    error = error + offset**2 + 2 * offset * (rows.mean[:c] @ weights - rows.mean[c:])
    return float((error / (np.diag(power) + 1e-12)).mean())


def pick(rows: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """The `count` channels from which all are best told by linear maps, in ascending order.

    Greedy: the one that explains most of what the weighted channels still have comes next.

    Args:
        rows: [R, d], the channels' values.
        weights: [d], what each channel counts.
    """
    scaled = (rows - rows.mean(0)) * weights
    rest = scaled.T.astype(np.float64) @ scaled
    least, chosen = 1e-9 * np.trace(rest) / len(rest), list[int]()
    for _ in range(count):
        own = np.diag(rest)
        explained = np.where(own > least, np.square(rest).sum(0) / np.maximum(own, least), 0)
        explained[chosen] = -1
        best = int(np.argmax(explained))
        chosen.append(best)
        if own[best] > least:
            rest = rest - np.outer(rest[:, best], rest[best]) / own[best]
    return np.sort(chosen)
