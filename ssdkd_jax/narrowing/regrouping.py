"""Channels through a reshape: axes that are merged, as channels and positions are, or cut up, as heads are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ssdkd_jax.narrowing.elements import Elements


def blocks(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The least runs of axes of two shapes that hold as many elements; axes of one are left out.

    >>> list(blocks((2, 6, 4, 4), (2, 3, 2, 16)))
    [([0], [0]), ([1], [1, 2]), ([2, 3], [3])]
    """
    ours, theirs = ([place for place, size in enumerate(shape) if size != 1] for shape in (before, after))
    while ours and theirs:
        inner, outer = [ours.pop(0)], [theirs.pop(0)]
        while (held := np.prod([before[i] for i in inner])) != (made := np.prod([after[i] for i in outer])):
            (inner if held < made else outer).append((ours if held < made else theirs).pop(0))
        yield inner, outer


def regrouped(elements: Elements, axes: Sequence[np.ndarray], sizes: Sequence[int]) -> list[np.ndarray]:
    """The axes of these sizes that some axes become: one of them has the channels, the others are fixed.

    It is the one along which the elements already differ; or, where a channel axis is cut up, the longest, and then the
    same of its elements are kept in each cut.
    """
    found = [np.zeros(size, np.int64) for size in sizes]
    alive = [place for place, axis in enumerate(axes) if axis.any()]
    if not alive:
        return found
    carrier = max(alive, key=lambda place: len(axes[place]))
    for place in alive:
        if place != carrier:
            elements.fix(axes[place])
    shape = [len(axis) if place == carrier else 1 for place, axis in enumerate(axes)]
    cut = np.broadcast_to(axes[carrier].reshape(shape), [len(axis) for axis in axes]).reshape(sizes)
    rows = [np.moveaxis(cut, place, 0).reshape(size, -1) for place, size in enumerate(sizes)]
    alike = [place for place, row in enumerate(rows) if (row == row[:, :1]).all()]
    chosen = alike[0] if alike else max(range(len(sizes)), key=lambda place: (sizes[place], place))
    elements.tie(rows[chosen], rows[chosen][:, :1])
    found[chosen] = rows[chosen][:, 0]
    return found
