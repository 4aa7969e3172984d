"""Scenes made of single items."""

import numpy as np
import pytest

from ssdkd_jax.data import scenes

SIZE = 32


@pytest.fixture(scope="module")
def items():
    """Full squares, so that an item's pixels are known; the class of each."""
    return np.full((5, 8, 8, 1), 255, np.uint8), np.arange(5)


def test_the_same_seed_gives_the_same_scenes_and_another_one_others(items):
    first, again, other = (scenes.make(*items, 6, SIZE, seed) for seed in (3, 3, 4))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])
    assert [array.dtype for array in first] == [np.uint8, np.uint8]
    assert [array.shape for array in first] == [(6, SIZE, SIZE, 1), (6, SIZE, SIZE)]


def test_masks_name_the_items_and_the_ground(items):
    images, masks = scenes.make(*items, 40, SIZE, 0)
    assert set(np.unique(masks)) == set(range(6))
    assert images[masks > 0].min() > images[masks == 0].mean()
    counts = [len(set(np.unique(mask)) - {scenes.GROUND}) for mask in masks]
    assert min(counts) >= 1
    assert max(counts) <= scenes.ITEMS[1]
    assert len(set(counts)) > 1


def test_items_come_in_several_sizes_and_at_the_border(items):
    _, masks = scenes.make(*items, 40, SIZE, 1)
    areas = [(mask == label).sum() for mask in masks for label in np.unique(mask) if label]
    low, high = (round(SIZE * side) ** 2 for side in scenes.SCALE)
    assert max(areas) > 1.5 * min(areas)
    assert max(areas) <= len(items) * high
    assert min(areas) < low  # cut by the border or covered
    assert (masks[:, 0] > 0).any()


def test_no_item_hides_more_than_a_part_of_another():
    rng, owner = np.random.default_rng(0), np.zeros((SIZE, SIZE), int)
    owner[:12, :12] = 1
    image = np.full((8, 8), 255, np.uint8)
    placed = [scenes.placed(rng, image, owner) for _ in range(60)]
    hidden = [((opacity > scenes.VISIBLE) & (owner == 1)).sum() / 144 for opacity in placed if opacity is not None]
    assert 0 < max(hidden) <= scenes.COVERED


def test_an_item_that_finds_no_place_is_left_out():
    owner = np.arange(1, 1 + SIZE * SIZE).reshape(SIZE, SIZE)  # an item a pixel: whatever is placed hides some whole
    assert scenes.placed(np.random.default_rng(0), np.full((8, 8), 255, np.uint8), owner) is None
