"""Pictures of a run: which images leave the devices for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssdkd_jax.engine import parallel
from ssdkd_jax.report import plots
from ssdkd_jax.run import pictures
from ssdkd_jax.types import Preview, Sharded

DEVICES, SLOTS, CLASSES = 4, 240, 25
COUNTS = {0: 100, 1: 0, 2: 1, 3: 12, 4: 13, 5: 2, 6: 23}  # the other classes share what is left


@pytest.fixture(scope="module")
def rows():
    """Slots of classes of many sizes, in random order, some of them empty."""
    rng = np.random.default_rng(0)
    label = np.repeat(list(COUNTS), list(COUNTS.values()))
    label = rng.permutation(np.concatenate([label, [-1] * 20, rng.integers(7, CLASSES, SLOTS - 20 - len(label))]))
    images = rng.integers(0, 256, (SLOTS, 2, 3, 1), np.uint8)
    return Preview(images=images, label=label.astype(np.int32), confidence=rng.random(SLOTS, np.float32))


def check(found, rows):
    """`found` gives the grid of all rows, with the confidences of its images."""
    there = np.asarray(found.label) >= 0
    few = jax.tree.map(lambda x: np.asarray(x)[there], found)
    assert len(few.label) <= plots.ROWS * plots.PER_CLASS
    np.testing.assert_array_equal(
        plots.class_grid(few.images, few.label, CLASSES), plots.class_grid(rows.images, rows.label, CLASSES)
    )
    known = {(image.tobytes(), int(label)): c for image, label, c in zip(*rows.values(), strict=True)}
    assert all(known[image.tobytes(), int(label)] == c for image, label, c in zip(*few.values(), strict=True))


def test_the_images_of_a_grid_are_chosen_on_the_device(rows):
    check(jax.jit(pictures.of_each_class(CLASSES, None))(jax.tree.map(jnp.asarray, rows)), rows)


@pytest.mark.eight_devices
def test_the_images_of_a_grid_are_chosen_from_all_devices(rows, monkeypatch):
    tiny.use_devices(monkeypatch, DEVICES)
    placed = parallel.to_devices(Sharded(rows=rows)).rows
    found = jax.pmap(pictures.of_each_class(CLASSES, "devices"), "devices", devices=jax.local_devices())(placed)
    check(parallel.to_host(Sharded(rows=found)).rows, rows)
