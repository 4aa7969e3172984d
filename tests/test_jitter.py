"""Views in other colours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssdkd_jax import augment


def views(amount, images):
    keys = jax.random.split(jax.random.key(0), len(images))
    return np.asarray(jax.jit(jax.vmap(augment.jitter(amount)))(keys, images))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_colours_stay_within_range_and_change_by_no_more_than_is_asked(channels, rng):
    images = rng.random((16, 6, 7, channels)).astype(np.float32)
    strong, weak = views(0.8, images), views(1e-4, images)
    assert strong.shape == images.shape and strong.min() >= 0 and strong.max() <= 1
    np.testing.assert_allclose(weak, images, atol=2e-3)
    assert np.abs(strong - images).mean() > 0.05


def test_contrast_and_brightness_are_an_affine_map_of_each_image_where_nothing_is_cut_off(rng):
    images = (0.45 + 0.1 * rng.random((8, 5, 5, 1))).astype(np.float32)
    for image, view in zip(images, views(0.4, images), strict=True):
        gain, offset = np.polyfit(image.ravel(), view.ravel(), 1)
        np.testing.assert_allclose(gain * image + offset, view, atol=1e-4)
        assert 0.6 <= gain <= 1.4


def test_grey_pixels_of_colour_images_stay_grey(rng):
    images = np.repeat(rng.random((8, 5, 5, 1)), 3, -1).astype(np.float32)
    found = views(0.6, images)
    np.testing.assert_allclose(found, found[..., :1].repeat(3, -1), atol=1e-4)


def test_a_setting_switches_it_on(rng):
    image, key = jnp.asarray(rng.random((8, 8, 3)), jnp.float32), jax.random.key(3)
    plain, coloured = (augment.Settings(shift=2, colour=colour).view() for colour in (0.0, 0.5))
    np.testing.assert_array_equal(plain(key, image), augment.make(True, 2)(key, image))
    assert not np.allclose(coloured(key, image), plain(key, image))
    np.testing.assert_array_equal(coloured(key, image), coloured(key, image))
