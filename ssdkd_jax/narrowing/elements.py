"""The places along the axes of arrays, and which of them stand or fall together."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Axes = tuple[np.ndarray, ...]  # of an array: the elements along each axis
FIXED = 0  # the element that is always kept; what is tied to it is, too


class Elements:
    """Numbers the elements of axes, and ties those that are kept or dropped together.

    Attributes:
        parts: runs of elements that differ from others although no value holds them alone.
        held: what ties elements to `FIXED` although they might be channels: an operation, and where it stands.
    """

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.held: list[tuple[str, str]] = []
        self._count = 1
        self._ties: list[tuple[np.ndarray, np.ndarray]] = []

    def axes(self, shape: tuple[int, ...]) -> Axes:
        """New elements along each axis of an array; an axis of one is fixed."""
        return tuple(self._new(size) if size > 1 else np.zeros(size, np.int64) for size in shape)

    def _new(self, size: int) -> np.ndarray:
        self._count += size
        return np.arange(self._count - size, self._count)

    def tie(self, one: np.ndarray, other: np.ndarray) -> None:
        """Each element of one axis with that of the other."""
        self._ties.append(tuple(x.ravel() for x in np.broadcast_arrays(one, other)))

    def fix(self, axis: np.ndarray) -> None:
        """Keep all elements of an axis."""
        self.tie(axis, np.full((), FIXED))

    def sets(self) -> np.ndarray:
        """The number of the set that each element is in; of the fixed ones it is that of `FIXED`."""
        ones, others = (np.concatenate(x) if x else np.zeros(0, int) for x in zip(*self._ties, strict=True))
        edges = coo_array((np.ones(len(ones), bool), (ones, others)), (self._count, self._count))
        return connected_components(edges, directed=False)[1]


def fixed(shape: tuple[int, ...]) -> Axes:
    """The axes of an array of which nothing can be dropped."""
    return tuple(np.full(size, FIXED) for size in shape)
