"""What the pictures show."""

import numpy as np

from ssdkd_jax.report import masks, plots


def shown(grid, row, column):
    """The image in a cell of a grid of 2x3 images."""
    return grid[row * 4 + 1 : row * 4 + 3, column * 5 + 1 : column * 5 + 4, 0]


def test_class_grid_spreads_over_the_slots_of_each_class():
    images = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None, None], (20, 2, 3, 1))
    labels = np.array([0, 1] * 9 + [2, 0])
    grid = plots.class_grid(images, labels, 4, per_class=3)
    assert grid.shape == (4 * 4, 3 * 5, 1)
    for row, slots in enumerate([[0, 8, 19], [1, 9, 17], [18]]):
        for column, slot in enumerate(slots):
            assert (shown(grid, row, column) == slot).all()
    assert (shown(grid, 2, 1) == 255).all()
    assert (grid[12:] == 255).all()


def test_a_notebook_shows_every_figure_without_pyplot():
    figures = (
        plots.grid(np.zeros((8, 8, 1), np.uint8), "title"),
        plots.curves([{"seconds": 1.0, "agreement": 0.5}], {"teacher": 0.9}, "agreement"),
        plots.histograms(np.ones(3), np.ones(3)),
    )
    for figure in figures:
        assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_sheet_has_images_above_their_masks():
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4, 1)
    labels = np.array([[[0, 1, 2, 255]] * 3, [[2, 2, 1, 0]] * 3], np.uint8)
    sheet, colours = masks.sheet(images, [labels, labels[::-1]], 3), masks.palette(3)
    cells = sheet.reshape(3, 5, 2, 6, 3)[:, 1:-1, :, 1:-1].transpose(0, 2, 1, 3, 4)
    np.testing.assert_array_equal(cells[0], np.repeat(images, 3, -1))
    np.testing.assert_array_equal(cells[1], colours[labels])
    np.testing.assert_array_equal(cells[2], colours[labels[::-1]])
    assert (sheet[0] == 255).all()
    assert len({tuple(colour) for colour in (*colours[:3], colours[255])}) == 4


def test_every_class_has_a_colour_of_its_own():
    for classes in (2, 11, 13, 20, 40):
        assert len({tuple(colour) for colour in masks.palette(classes)[:classes]}) == classes


def test_the_table_of_iou_leaves_absent_classes_empty(tmp_path):
    scores = {"teacher": {"miou": 0.5, "iou_0": 0.75, "iou_1": 0.25}, "student": {"miou": 0.5, "iou_0": 0.5}}
    masks.write_table(tmp_path / "iou.csv", ["ground", "bed"], scores)
    lines = (tmp_path / "iou.csv").read_text().splitlines()
    assert lines == ["class,teacher,student", "ground,0.7500,0.5000", "bed,0.2500,", "mean,0.5000,0.5000"]
