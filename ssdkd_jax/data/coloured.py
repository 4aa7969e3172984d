"""Single items, each in a colour of its own on a patterned ground: colour images made from grey ones.

Nothing of colour, light, place and ground depends on the class. The grounds are patterns that repeat on a lattice:
checks, bricks, dots, tartans and zigzags. `sources.procedural` draws none of these, and shares no code, so that what is
learnt from its images is not learnt from the grounds of these. Ours.
"""

from __future__ import annotations

import numpy as np

SIZE = 32
AT_ONCE = 1000  # images whose numbers one generator draws
SOLID = 0.25  # grey value from which an item hides its ground
DARK, BRIGHT = (0.15, 0.45), (0.65, 1.0)  # the largest channel of a colour: items have the one, their grounds the other
PALEST = 0.25  # least saturation
PERIOD = (4.0, 10.0)  # of a lattice, in pixels
LIGHT = 0.3  # how much brighter the lit side of an image is than its middle
DRAWN = {"place": 2, "lattice": 4, "kind": 1, "light": 1, "bright": 1, "item": 3, "ground": 3, "figure": 3}


def make(images: np.ndarray, seed: int) -> np.ndarray:
    """The images in colour; image i is the same whatever comes after it.

    Args:
        images: uint8 [M, h, w, 1], bright items on black, h and w at most 32.
        seed: of numpy's generators.

    Returns:
        uint8 [M, 32, 32, 3].
    """
    made = np.empty((len(images), SIZE, SIZE, 3), np.uint8)
    for start in range(0, len(images), AT_ONCE):
        part = images[start : start + AT_ONCE, ..., 0]
        numbers = np.random.default_rng([seed, start]).random((AT_ONCE, sum(DRAWN.values())), np.float32)
        made[start : start + AT_ONCE] = np.round(255 * painted(part, numbers[: len(part)]))
    return made


def painted(items: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Items uint8 [n, h, w] as float32 [n, 32, 32, 3] in [0, 1], by numbers [n, sum of `DRAWN`] in [0, 1)."""
    drawn = dict(zip(DRAWN, np.split(numbers, np.cumsum([*DRAWN.values()])[:-1], 1), strict=True))
    grey, bright = placed(items, drawn["place"]), drawn["bright"][:, 0] < 0.5
    item, ground, figure = (
        colour(drawn[name], chosen)[:, None, None]
        for name, chosen in (("item", bright), ("ground", ~bright), ("figure", ~bright))
    )
    where = pattern(drawn["lattice"], drawn["kind"][:, 0])[..., None]
    behind = ground + where * (figure - ground)
    before = ((0.5 + 0.5 * grey) * lit(drawn["light"]))[..., None] * item
    opacity = np.minimum(grey / SOLID, 1)[..., None]
    return np.clip(behind + opacity * (before - behind), 0, 1)


def placed(items: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Items [n, h, w] somewhere within float32 [n, 32, 32] in [0, 1], by two numbers of each."""
    count, *sides = items.shape
    canvas = np.zeros((count, SIZE, SIZE), np.float32)
    corners = [np.floor(place[:, axis] * (SIZE + 1 - side)).astype(int) for axis, side in enumerate(sides)]
    rows, columns = (corner[:, None] + np.arange(side) for corner, side in zip(corners, sides, strict=True))
    canvas[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None]] = items / np.float32(255)
    return canvas


def colour(numbers: np.ndarray, bright: np.ndarray) -> np.ndarray:
    """Colours float32 [n, 3] in [0, 1] of any hue, some dark and some bright, by three numbers of each."""
    hue, saturation, value = numbers.T[..., None]
    low, high = np.where(bright[:, None], BRIGHT, DARK).astype(np.float32).T[..., None]
    channels = np.clip(np.abs((6 * hue + np.float32([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return (low + (high - low) * value) * (1 - (PALEST + (1 - PALEST) * saturation) * (1 - channels))


def lit(light: np.ndarray) -> np.ndarray:
    """Light from a side, float32 [n, 32, 32] around 1, by a number of each."""
    along = np.linspace(-1, 1, SIZE, dtype=np.float32)
    angle = (2 * np.pi * light)[..., None]
    return 1 + LIGHT * (np.cos(angle) * along + np.sin(angle) * along[:, None])


def pattern(lattice: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Patterns float32 [n, 32, 32] in [0, 1], by four numbers of each lattice, and one that chooses the kind."""
    angle, period, *phase = lattice.T[..., None, None]
    across = np.arange(SIZE, dtype=np.float32)
    step = PERIOD[0] + (PERIOD[1] - PERIOD[0]) * period
    cos, sin = np.cos(2 * np.pi * angle) / step, np.sin(2 * np.pi * angle) / step
    u, v = cos * across + sin * across[:, None] + phase[0], cos * across[:, None] - sin * across + phase[1]
    made, chosen = np.empty(u.shape, np.float32), (kind * len(PATTERNS)).astype(int)
    for index, drawn in enumerate(PATTERNS):
        made[chosen == index] = drawn(u[chosen == index], v[chosen == index])
    return made


def checks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Squares of two colours in turn."""
    return (np.floor(u) + np.floor(v)) % 2


def bricks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bricks twice as long as high, every second row moved by half of one, and the mortar between them."""
    along = (u + np.floor(v)) / 2
    return (v % 1 > 0.2) & (along % 1 > 0.1)


def dots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A disc in each cell."""
    return np.square(u % 1 - 0.5) + np.square(v % 1 - 0.5) < 0.1


def tartan(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bands in two directions, half as strong where they do not cross."""
    return ((u % 1 < 0.4).astype(np.float32) + (v % 1 < 0.4)) / 2


def zigzags(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bands that go up and down."""
    return (v + np.abs(u % 2 - 1)) % 1 < 0.5


PATTERNS = (checks, bricks, dots, tartan, zigzags)
