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
    field = np.asarray(procedural.fields(jax.random.key(0), (64, 64, 50)))
    np.testing.assert_allclose(field.mean((0, 1)), 0, atol=1e-4)
    np.testing.assert_allclose(field.std((0, 1)), 1, atol=1e-3)
    power = np.square(np.abs(np.fft.fft2(field, axes=(0, 1)))).mean(-1)
    f = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None]).ravel()[1:]
    slope = np.polyfit(np.log(f), np.log(power.ravel()[1:]), 1)[0]
    wanted = jax.random.uniform(jax.random.split(jax.random.key(0))[1], minval=0.5, maxval=3.0)
    assert slope == pytest.approx(-2 * float(wanted), abs=0.1)


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
    made = jax.jit(jax.vmap(lambda key: procedural.strokes(key, (32, 32, 3))))(jax.random.split(jax.random.key(0), 40))
    images = np.asarray(made).reshape(40, -1, 3)
    assert np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1
    for pixels in images:  # all of them on the line between two colours
        values = np.linalg.svd(pixels - pixels.mean(0), compute_uv=False)
        assert values[1] < 1e-3 * values[0] + 1e-4
    ink = np.abs(images - np.median(images, 1, keepdims=True)).max(-1) > 0.05
    assert 0.02 < ink.mean() < 0.5


def test_the_corners_of_an_arc_lie_on_an_ellipse_and_joined_strokes_meet():
    paths = np.asarray(jax.jit(jax.vmap(procedural.pen_paths))(jax.random.split(jax.random.key(1), 200)))
    joined = np.isclose(paths[:, :-1, -1], paths[:, 1:, 0], atol=1e-5).all(-1)
    assert 0.4 < joined.mean() < 0.6
    x, y = np.moveaxis(paths.reshape(-1, procedural.CORNERS, 2), -1, 0)
    conic = np.stack([x * x, y * y, x, y], -1)  # axes along the image's
    left = [np.linalg.lstsq(a, np.ones(len(a)), rcond=None)[1] for a in conic.astype(np.float64)]
    share = np.mean([rest.size and rest[0] < 1e-6 for rest in left])
    assert 0.2 < share < 0.4


def test_strokes_on_a_ground_leave_it_as_it_is_where_there_is_no_ink_up_to_its_contrast():
    keys = jax.random.split(jax.random.key(0), 30)
    grounds = np.random.default_rng(0).random((30, 24, 24, 3)).astype(np.float32)
    images = np.asarray(jax.jit(jax.vmap(procedural.drawn_on))(keys, grounds))
    ink = np.asarray(jax.vmap(lambda key: procedural.ink(jax.random.split(key, 3)[0], (24, 24, 3)))(keys))[..., 0]
    assert images.min() >= 0 and images.max() <= 1
    for image, ground, covered in zip(images, grounds, ink, strict=True):
        bare, full = covered < 1e-4, covered > 1 - 1e-4
        if bare.sum() > 20:
            gain = np.polyfit((ground - ground.mean((0, 1)))[bare].ravel(), image[bare].ravel(), 1)[0]
            assert 0.09 < gain < 1.01
        if full.sum() > 1:
            np.testing.assert_allclose(image[full], np.broadcast_to(image[full][0], image[full].shape), atol=1e-3)
