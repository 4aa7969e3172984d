"""Letters of installed fonts: turned, moved, white on black, or in a colour of their own on a part of a photograph.

The fonts are those of Debian's packages fonts-dejavu, fonts-liberation, fonts-freefont-ttf, fonts-lato and
fonts-open-sans. A font serves for training or for tests, so that a test letter has a shape that nobody has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import painting
from PIL import Image, ImageDraw, ImageFont

from ssdkd_jax.data import Dataset, coloured
from ssdkd_jax.errors import MissingError

FAMILIES = ("dejavu", "freefont", "lato", "liberation", "open-sans")
LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
GREEK = "ΓΔΘΛΞΠΣΦΨΩαβγδεζθλμπ"
HELD_BACK = 4  # every so manieth font serves for tests
SCALE = (0.95, 1.35)  # a glyph's canvas has a margin
UNKNOWN = "\U0010fffe"  # no letter: a font shows it as it shows each that it lacks


class Style(NamedTuple):
    """What the images are of.

    Attributes:
        alphabet: a class a letter.
        size: of an image, in pixels.
        colour: in colour on photographs; else grey, bright on black.
        train, test: how many.
    """

    alphabet: str
    size: int
    colour: bool
    train: int
    test: int


def load(style: Style, folder: Path) -> Dataset:
    """Letters of the fonts below a folder.

    Raises:
        MissingError: where a family of fonts is not there, with the package that has it.
    """
    drawn = [glyphs for path in fonts(folder) if (glyphs := drawn_by(path, style.alphabet, 2 * style.size))]
    held = drawn[::HELD_BACK]
    seen = [glyphs for place, glyphs in enumerate(drawn) if place % HELD_BACK]
    train_x, train_y = make(seen, style.train, style, seed=0)
    test_x, test_y = make(held, style.test, style, seed=1)
    mean, std = moments(train_x)
    return Dataset(train_x, train_y, test_x, test_y, len(style.alphabet), mean, std, tuple(style.alphabet))


def moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images, of values in [0, 1]."""
    channels = images.reshape(-1, images.shape[-1]) / np.float32(255)
    mean, std = (tuple(round(float(x), 4) for x in moment) for moment in (channels.mean(0), channels.std(0)))
    return mean, std


def fonts(folder: Path) -> list[Path]:
    """The font files of all families, in the order of their names."""
    for family in FAMILIES:
        if not list((folder / family).glob("*.ttf")):
            raise MissingError(
                f"No font in {folder / family}; install Debian's packages fonts-dejavu, fonts-liberation, "
                "fonts-freefont-ttf, fonts-lato and fonts-open-sans, or name another --fonts."
            )
    return [path for family in FAMILIES for path in sorted((folder / family).glob("*.ttf"))]


def drawn_by(path: Path, alphabet: str, side: int) -> list[Image.Image]:
    """Each letter as a font draws it, white on a black square of so many pixels; [] where it lacks one."""
    font = ImageFont.truetype(path, round(0.7 * side))

    def drawn(letter: str) -> Image.Image:
        canvas = Image.new("L", (side, side))
        ImageDraw.Draw(canvas).text((side / 2, 0.73 * side), letter, fill=255, font=font, anchor="ms")
        return canvas

    lacking = drawn(UNKNOWN).tobytes()
    made = [drawn(letter) for letter in alphabet]
    return [] if any(image.tobytes() == lacking or not image.getbbox() for image in made) else made


def make(glyphs: Sequence[Sequence[Image.Image]], count: int, style: Style, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """So many images and their labels, of each letter as many as of another.

    Args:
        glyphs: a list of all letters for each font.
        seed: of numpy's generator.

    Returns:
        uint8 [count, size, size, 1 or 3], int32 [count].
    """
    draw = in_colour if style.colour else bright_on_black

    def drawn(label: int, rng: np.random.Generator) -> np.ndarray:
        return draw(glyphs[rng.integers(len(glyphs))][label], style.size, rng)

    return painting.labelled(drawn, len(style.alphabet), count, [style.size, seed])


def bright_on_black(glyph: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """A letter of any brightness from a half, [size, size, 1] in [0, 1]."""
    return (rng.uniform(0.5, 1) / 255 * painting.turned(glyph, size, SCALE, rng))[..., None]


def in_colour(glyph: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """A dark letter on a bright ground or the other way round, [size, size, 3] in [0, 1]."""
    bright = bool(rng.integers(2))
    colour, tint = coloured.colour(rng.random((2, 3), np.float32), np.array([not bright, True]))
    opacity = painting.turned(glyph, size, SCALE, rng)[..., None] / np.float32(255)
    behind = painting.ground(size, bright, tint, rng)
    return behind + opacity * (colour - behind)
