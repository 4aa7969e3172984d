"""What the pictures show."""

import numpy as np

from ssdkd_jax import report


def shown(grid, row, column):
    """The image in a cell of a grid of 2x3 images."""
    return grid[row * 4 + 1 : row * 4 + 3, column * 5 + 1 : column * 5 + 4, 0]


def test_class_grid_spreads_over_the_slots_of_each_class():
    images = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None, None], (20, 2, 3, 1))
    labels = np.array([0, 1] * 9 + [2, 0])
    grid = report.class_grid(images, labels, 4, per_class=3)
    assert grid.shape == (4 * 4, 3 * 5, 1)
    for row, slots in enumerate([[0, 8, 19], [1, 9, 17], [18]]):
        for column, slot in enumerate(slots):
            assert (shown(grid, row, column) == slot).all()
    assert (shown(grid, 2, 1) == 255).all()
    assert (grid[12:] == 255).all()
