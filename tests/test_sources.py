"""Image sources: range, shape, determinism, variety."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from ssdkd_jax import sources
from ssdkd_jax.errors import InputError
from ssdkd_jax.sources import procedural


@pytest.mark.parametrize("shape", [(16, 16, 1), (12, 20, 3)])
def test_procedural_images_are_in_range_and_all_different(shape):
    made = procedural.source(23, shape)
    images = np.asarray(made(jax.random.key(0)))
    assert images.shape == (23, *shape) and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1 and np.isfinite(images).all()
    np.testing.assert_array_equal(images, made(jax.random.key(0)))
    assert len(np.unique(images.reshape(23, -1), axis=0)) == 23
    assert not np.array_equal(images, made(jax.random.key(1)))


def test_noise_has_the_spectrum_that_is_asked_for():
    field = np.asarray(procedural.fields(jax.random.key(0), 2, (64, 64, 50)))[1]
    np.testing.assert_allclose(field.mean((0, 1)), 0, atol=1e-4)
    np.testing.assert_allclose(field.std((0, 1)), 1, atol=1e-3)
    power = np.square(np.abs(np.fft.fft2(field, axes=(0, 1)))).mean(-1)
    f = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None]).ravel()[1:]
    slope = np.polyfit(np.log(f), np.log(power.ravel()[1:]), 1)[0]
    wanted = procedural.uniforms(jax.random.split(jax.random.key(0))[1], 2, (0.5, 3.0))[0][1]
    assert slope == pytest.approx(-2 * wanted.item(), abs=0.1)


def test_colour_is_in_the_images_and_grey_ones_are_there_too():
    images = np.asarray(procedural.source(100, (16, 16, 3))(jax.random.key(0)))
    colour = images.std(-1).mean((1, 2))
    assert (colour > 0.05).mean() > 0.2 and (colour < 0.02).mean() > 0.2


def test_stored_images_are_drawn_without_repetition_while_there_are_enough():
    held = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    few, many = (np.asarray(sources.stored(held, n)(jax.random.key(0)) * 255).round().ravel() for n in (6, 25))
    assert len(set(few)) == 6 and set(many) == set(range(10))
    assert np.unique(many, return_counts=True)[1].max() == 3
    with pytest.raises(InputError, match="no images"):
        sources.stored(held[:0], 3)


def test_a_mixture_holds_the_images_of_each():
    held = np.full((4, 8, 8, 1), 255, np.uint8)
    mixed = sources.mixture([sources.stored(held, 3), procedural.source(5, (8, 8, 1))])
    images = np.asarray(mixed(jax.random.key(0)))
    assert images.shape == (8, 8, 8, 1) and (images[:3] == 1).all() and not (images[3:] == 1).all()


def test_strokes_are_ink_of_one_tone_on_a_plain_ground():
    papers, inks = inked(np.zeros((40, 32, 32, 3), np.float32))
    images = papers[0][:40] + (papers[1][:40] - papers[0][:40]) * inks[:40]
    assert np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1
    for pixels in images.reshape(40, -1, 3):  # all of them on the line between two colours
        values = np.linalg.svd(pixels - pixels.mean(0), compute_uv=False)
        assert values[1] < 1e-3 * values[0] + 1e-4
    assert 0.02 < (inks > 0.05).mean() < 0.5
    white_on_black = [ground.max() == 0 and pen.min() == 1 for ground, pen in zip(*papers, strict=True)]
    assert 0.3 < np.mean(white_on_black[:40]) < 0.7


def inked(grounds):
    """Papers and the colours of pens, of plain grounds and then of these; and how much ink is where."""
    papers = jax.jit(procedural.papers)(jax.random.key(0), grounds)
    count, shape = 2 * len(grounds), grounds.shape[1:]
    return [np.asarray(x) for x in papers], np.asarray(procedural.ink(jax.random.key(1), count, shape))


def test_the_corners_of_an_arc_lie_on_an_ellipse_and_joined_strokes_meet():
    paths = np.asarray(procedural.pen_paths(jax.random.key(1), 200))
    joined = np.isclose(paths[:, :-1, -1], paths[:, 1:, 0], atol=1e-5).all(-1)
    assert 0.4 < joined.mean() < 0.6
    x, y = np.moveaxis(paths.reshape(-1, procedural.CORNERS, 2), -1, 0)
    conic = np.stack([x * x, y * y, x, y], -1)  # axes along the image's
    left = [np.linalg.lstsq(a, np.ones(len(a)), rcond=None)[1] for a in conic.astype(np.float64)]
    share = np.mean([rest.size and rest[0] < 1e-6 for rest in left])
    assert 0.2 < share < 0.4


def test_a_pen_changes_a_given_ground_where_its_ink_is_and_else_its_contrast_alone():
    grounds = np.random.default_rng(0).random((30, 24, 24, 3)).astype(np.float32)
    (papers, pens), inks = inked(grounds)
    images = papers + (pens - papers) * inks
    assert images.min() >= 0 and images.max() <= 1
    for image, ground, covered in zip(images[30:], grounds, inks[30:, ..., 0], strict=True):
        bare, full = covered < 1e-4, covered > 1 - 1e-4
        if bare.sum() > 20:
            gain = np.polyfit((ground - ground.mean((0, 1)))[bare].ravel(), image[bare].ravel(), 1)[0]
            assert 0.09 < gain < 1.01
        if full.sum() > 1:
            np.testing.assert_allclose(image[full], np.broadcast_to(image[full][0], image[full].shape), atol=1e-3)


def test_an_ink_is_never_far_from_a_stroke_and_leaves_ground_free():
    paths = np.asarray(procedural.pen_paths(jax.random.split(jax.random.key(1))[0], 60))
    inks = np.asarray(procedural.ink(jax.random.key(1), 60, (24, 24, 1)))[..., 0]
    rows, columns = (np.linspace(-1, 1, 24)[at] for at in np.nonzero(inks[0] > 0.5))
    assert np.hypot(rows, columns).max() < np.hypot(*np.moveaxis(paths[0], -1, 0)).max() + 0.3
    assert (inks.max((1, 2)) > 0.5).all() and (inks.min((1, 2)) < 1e-3).all()
