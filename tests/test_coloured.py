"""Items in colour on patterned grounds."""

from colorsys import hsv_to_rgb
from pathlib import Path

import numpy as np
import pytest

from ssdkd_jax import data
from ssdkd_jax.data import coloured

FOLDER = Path("/usr/share/datasets/fashion-mnist")
SQUARE = np.zeros((1, 28, 28, 1), np.uint8)
SQUARE[:, 8:20, 8:20] = 255


def squares(count):
    """A white square in each."""
    return np.repeat(SQUARE, count, 0)


def test_an_image_is_the_same_whatever_comes_after_it(monkeypatch):
    monkeypatch.setattr(coloured, "AT_ONCE", 4)
    few, many, other = (coloured.make(squares(count), seed) for count, seed in ((6, 3), (9, 3), (6, 4)))
    np.testing.assert_array_equal(few, many[:6])
    assert (few.shape, few.dtype) == ((6, 32, 32, 3), np.uint8)
    assert len(np.unique(np.concatenate([many, other]).reshape(15, -1), axis=0)) == 15


def test_an_item_stands_out_from_its_ground_whichever_of_the_two_is_bright():
    made = coloured.make(squares(300), 0).max(-1).astype(float)  # the centre belongs to the item, the rim to the ground
    gap = made[:, 14:18, 14:18].mean((1, 2)) - made[:, :4].mean((1, 2))
    assert np.abs(gap).min() > 20
    assert 0.4 < (gap > 0).mean() < 0.6


def test_an_item_has_one_hue_and_every_hue_occurs():
    made = coloured.make(squares(300), 0)[:, 14:18, 14:18].reshape(300, -1, 3).astype(float)
    shares = made / made.max(-1, keepdims=True)
    assert np.abs(shares - shares.mean(1, keepdims=True)).max() < 0.05  # light changes its brightness alone
    assert (np.bincount(made.mean(1).argmax(-1)) > 60).all()


def test_colours_are_those_of_their_hue_saturation_and_value(rng):
    numbers, bright = rng.random((20, 3)).astype(np.float32), np.arange(20) % 2 == 0
    expected = []
    for (hue, saturation, value), (low, high) in zip(numbers, [coloured.BRIGHT, coloured.DARK] * 10, strict=True):
        pale = coloured.PALEST + (1 - coloured.PALEST) * saturation
        expected.append(hsv_to_rgb(hue, pale, low + (high - low) * value))
    np.testing.assert_allclose(coloured.colour(numbers, bright), expected, atol=1e-5)


def test_an_item_is_moved_whole():
    item = np.arange(1, 13, dtype=np.uint8).reshape(1, 3, 4)
    moved = coloured.placed(np.repeat(item, 2, 0), np.float32([[0, 0], [0.9999, 0.5]])) * 255
    np.testing.assert_allclose(moved[0, :3, :4], item[0], rtol=1e-6)
    np.testing.assert_allclose(moved[1, 29:, 14:18], item[0], rtol=1e-6)
    assert np.isclose(moved.sum((1, 2)), item.sum()).all()


@pytest.mark.parametrize("kind", range(len(coloured.PATTERNS)))
def test_a_pattern_repeats_and_shows_both_colours(kind):
    drawn = coloured.PATTERNS[kind]
    u, v = (10 * axis for axis in np.random.default_rng(0).random((2, 40, 40)))
    first = drawn(u, v).astype(float)
    np.testing.assert_array_equal(first, drawn(u + 2, v + 2).astype(float))
    assert (first.min(), first.max()) == (0, 1)
    assert 0.2 < first.mean() < 0.8


@pytest.mark.skipif(not FOLDER.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_labels_are_fashion_mnists_and_the_normalisation_is_that_of_the_images(monkeypatch):
    grey = data.load("fashion_mnist", str(FOLDER))
    few = grey._replace(train_images=grey.train_images[:3000], test_images=grey.test_images[:10])
    monkeypatch.setattr(data, "fashion_mnist", lambda folder: few)
    made = data.load("fashion_colour", str(FOLDER))
    assert (made.train_images.shape, made.test_images.shape) == ((3000, 32, 32, 3), (10, 32, 32, 3))
    assert made.train_labels is few.train_labels and made.test_labels is few.test_labels
    x = made.train_images.reshape(-1, 3) / 255
    np.testing.assert_allclose(made.mean, x.mean(0), atol=0.01)
    np.testing.assert_allclose(made.std, x.std(0), atol=0.01)
