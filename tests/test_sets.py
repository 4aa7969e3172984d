"""The data sets of a protocol: letters of fonts, flags, and what is left of known sets."""

import shutil
from pathlib import Path

import banners
import letters
import matplotlib
import numpy as np
import painting
import pytest
import sets
from PIL import Image

from ssdkd_jax import data
from ssdkd_jax.errors import InputError, MissingError

TTF = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "DejaVuSerif-Italic")


@pytest.fixture(scope="module")
def fonts(tmp_path_factory):
    """A folder of all families, each with one of matplotlib's fonts."""
    folder = tmp_path_factory.mktemp("fonts")
    for family, name in zip(letters.FAMILIES, FONTS, strict=True):
        (folder / family).mkdir()
        shutil.copy(TTF / f"{name}.ttf", folder / family)
    return folder


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """A folder of one-coloured flags, some red and all others blue."""
    folder = tmp_path_factory.mktemp("flags")
    for place, country in enumerate(banners.COUNTRIES):
        Image.new("RGB", (16, 11), (255, 0, 0) if place < 5 else (0, 0, 255)).save(folder / f"{country}.png")
    return folder


def test_a_square_that_is_turned_keeps_its_area_and_stays_near_the_middle(rng):
    for _ in range(20):
        placed = painting.turned(Image.new("L", (50, 50), 255), 40, (0.5, 0.5), rng) / 255
        assert placed.shape == (40, 40)
        assert placed.sum() == pytest.approx(20**2, rel=0.02)
        middle = [(placed.sum(axis) * (np.arange(40) + 0.5)).sum() / placed.sum() for axis in (0, 1)]
        assert np.abs(np.array(middle) - 20).max() <= 40 * painting.SHIFT + 0.2


def test_a_square_that_is_not_turned_has_the_side_that_is_asked_for(rng):
    placed = painting.turned(Image.new("RGB", (30, 30), (0, 255, 0)), 40, (0.8, 0.8), rng, turn=0.0)
    assert placed.shape == (40, 40, 3)
    assert 31 <= (placed[..., 1].max(0) > 127).sum() <= 33
    assert placed[..., [0, 2]].max() == 0


def test_grounds_are_parts_of_photographs_in_their_half_of_the_range(rng):
    tint = np.array([1.0, 0.5, 0.25])
    dark, bright = (painting.ground(32, bright, tint, rng) for bright in (False, True))
    assert dark.shape == bright.shape == (32, 32, 3)
    assert (dark <= painting.CONTRAST * tint + 1e-6).all() and dark.std() > 0
    assert (bright >= (1 - painting.CONTRAST) * tint - 1e-6).all() and (bright <= tint + 1e-6).all()


@pytest.mark.parametrize("colour", [False, True])
def test_letters_are_drawn_evenly_and_the_same_each_time(fonts, colour):
    style = letters.Style("AIW", 20, colour, 90, 30)
    first, again = (letters.load(style, fonts) for _ in range(2))
    assert first.train_images.shape == (90, 20, 20, 3 if colour else 1) and first.train_images.dtype == np.uint8
    assert np.bincount(first.train_labels).tolist() == [30] * 3 and np.bincount(first.test_labels).tolist() == [10] * 3
    assert (first.classes, first.names) == (3, ("A", "I", "W"))
    np.testing.assert_array_equal(first.train_images, again.train_images)
    np.testing.assert_allclose(first.mean, first.train_images.mean((0, 1, 2)) / 255, atol=1e-4)
    np.testing.assert_allclose(first.std, first.train_images.std((0, 1, 2)) / 255, atol=1e-4)


def test_a_wide_letter_has_more_ink_than_a_narrow_one(fonts):
    made = letters.load(letters.Style("IW", 24, False, 200, 2), fonts)
    ink = [made.train_images[made.train_labels == label].mean() for label in (0, 1)]
    assert ink[1] > 2 * ink[0] > 0


def test_letters_in_colour_stand_out_of_their_ground(fonts):
    glyphs = [letters.drawn_by(TTF / "DejaVuSans-Bold.ttf", "M", 64)]
    images, _ = letters.make(glyphs, 50, letters.Style("M", 32, True, 0, 0), 0)
    assert np.ptp(images.max(-1).reshape(50, -1).astype(int), 1).min() > 0.1 * 255


def test_test_letters_are_of_fonts_that_do_not_train(fonts, monkeypatch):
    used = []

    def make(glyphs, count, style, seed):
        used.append(glyphs)
        return np.zeros((count, 2, 2, 1), np.uint8), np.zeros(count, np.int32)

    monkeypatch.setattr(letters, "make", make)
    letters.load(letters.Style("A", 16, False, 1, 1), fonts)
    train, test = ({font[0].tobytes() for font in glyphs} for glyphs in used)
    assert len(train) == 3 and len(test) == 2 and not train & test


def test_a_font_without_the_letters_is_left_out():
    assert len(letters.drawn_by(TTF / "DejaVuSans.ttf", letters.GREEK, 32)) == len(letters.GREEK) == 20
    assert letters.drawn_by(TTF / "cmr10.ttf", letters.GREEK, 32) == []


def test_missing_fonts_and_flags_tell_the_packages(tmp_path):
    with pytest.raises(MissingError, match="fonts-dejavu, fonts-liberation"):
        letters.fonts(tmp_path)
    with pytest.raises(MissingError, match=r"at\.png; install Debian's famfamfam-flag-png"):
        banners.load(32, 2, 2, tmp_path)


def test_flags_show_their_colours(flags):
    made = banners.load(32, 100, 20, flags)
    assert made.train_images.shape == (100, 32, 32, 3) and made.classes == 20
    assert np.bincount(made.train_labels).tolist() == [5] * 20
    red, _, blue = made.train_images[:, 15:17, 15:17].mean((1, 2)).T
    np.testing.assert_array_equal(red > blue, made.train_labels < 5)


def test_every_second_class_is_rare_in_training_alone():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(4000) % 4).astype(np.int32)
    whole = data.Dataset(labels[:, None, None, None], labels, labels[:8], labels[:8], 4, (0.0,), (1.0,))
    left = sets.rare(whole)
    assert np.bincount(left.train_labels)[[0, 2]].tolist() == [1000, 1000]
    assert left.train_labels.size == pytest.approx(2000 + 0.05 * 2000, abs=1)
    assert np.bincount(left.train_labels)[[1, 3]].min() > 25
    np.testing.assert_array_equal(left.train_images.ravel(), left.train_labels)
    assert left.test_labels is whole.test_labels


def test_chosen_classes_are_counted_anew_and_resized():
    images = np.full((10, 28, 28, 1), np.arange(10)[:, None, None, None], np.uint8)
    labels = np.arange(10, dtype=np.int32)
    few = sets.chosen(data.Dataset(images, labels, images, labels, 10, (0.0,), (1.0,)), (1, 5, 9), 20)
    assert few.train_images.shape == (3, 20, 20, 1) and few.classes == 3
    assert few.train_images.max((1, 2, 3)).tolist() == few.train_images.min((1, 2, 3)).tolist() == [1, 5, 9]
    assert few.test_labels.tolist() == [0, 1, 2]


def test_digits_in_colour_keep_their_labels():
    made, grey = sets.digits_colour(), data.load("digits")
    assert made.train_images.shape == (sets.COPIES * len(grey.train_images), 32, 32, 3)
    np.testing.assert_array_equal(made.train_labels[:: sets.COPIES], grey.train_labels)
    np.testing.assert_array_equal(made.train_labels[sets.COPIES - 1 :: sets.COPIES], grey.train_labels)
    assert not np.array_equal(made.train_images[0], made.train_images[1])


@pytest.mark.parametrize("name", ["digits", "digits_colour"])
def test_a_set_has_the_shape_and_classes_that_it_is_known_by(name):
    known, made = sets.known(name), sets.known(name).make()
    assert made.train_images.shape[1:] == known.shape
    assert made.classes == known.classes == made.train_labels.max() + 1
    with pytest.raises(InputError, match=r"'diggits' is not one of .*; did you mean 'digits'"):
        sets.known("diggits")
