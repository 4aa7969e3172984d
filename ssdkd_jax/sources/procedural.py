"""Images drawn by a formula: noise of several spectra, its level lines, dead leaves, gradients, vignettes and strokes.

Ours, after networks that were trained on structured noise (Baradad et al., NeurIPS 2021). Each image has a scale, a
contrast and a brightness of its own; in colour, the channels of an image share most of what they show. Images of a kind
are drawn together, and their random numbers by few calls: each call is a loop to compile.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp

from ssdkd_jax.engine import parallel
from ssdkd_jax.sources import Source
from ssdkd_jax.types import Array, Key

Shape = tuple[int, int, int]
KINDS = 7
LEAVES = 40
STROKES, CORNERS = 3, 16
PEN = (math.log(0.05), math.log(0.2))  # of a pen's width and softness, where an image is 2 wide


def source(count: int, shape: Shape) -> Source:
    """`draw` for a number and a shape, compiled quickly."""
    return parallel.quick_jit(partial(draw, count=count, shape=shape))


def draw(key: Key, count: int, shape: Shape) -> Array:
    """`count` images of all kinds, and of strokes on any of them, in equal parts and random order.

    Args:
        shape: (H, W, D).

    >>> import jax
    >>> images = draw(jax.random.key(0), 10, (16, 16, 3))
    >>> images.shape, bool((images >= 0).all() and (images <= 1).all())
    ((10, 16, 16, 3), True)
    """
    smooth, across, sizes, tone, disc, shades, pen, *orders = jax.random.split(key, 9)
    each = -(-count // KINDS)
    noise, lines, inside = jnp.split(fields(smooth, 3 * each, shape), 3)
    raw = (noise, level_lines(lines), inside, ramps(across, each, shape), dead_leaves(sizes, each, shape))
    noise, lines, inside, *rest = jnp.split(toned(tone, jnp.concatenate(raw)), len(raw))
    made = jnp.concatenate([noise, lines, vignettes(disc, inside), *rest])
    grounds, colours = papers(shades, jax.random.permutation(orders[0], made)[:each])
    made = jnp.concatenate([made, grounds + (colours - grounds) * ink(pen, 2 * each, shape)])
    return jax.random.permutation(orders[1], made)[:count]


def noise(key: Key, count: int, shape: Shape) -> Array:
    """Noise fields as images, [count, H, W, D]."""
    smooth, tone = jax.random.split(key)
    return toned(tone, fields(smooth, count, shape))


def uniforms(key: Key, count: int, *bounds: tuple[float, float]) -> list[Array]:
    """Of each pair of bounds, uniform numbers [count, 1, 1, 1] between them."""
    drawn = jax.random.uniform(key, (len(bounds), count, 1, 1, 1))
    return [low + (high - low) * u for (low, high), u in zip(bounds, drawn, strict=True)]


def fields(key: Key, count: int, shape: Shape) -> Array:
    """Gaussian fields [count, H, W, D] of mean 0 and variance 1, their spectra |f|^-s with s between .5 and 3."""
    white, slope = jax.random.split(key)
    height, width, _ = shape
    f = jnp.hypot(jnp.fft.fftfreq(height)[:, None], jnp.fft.rfftfreq(width)[None])[..., None]
    (s,) = uniforms(slope, count, (0.5, 3.0))
    power = jnp.where(f > 0, f, 1.0) ** -s * (f > 0)
    spectrum = jnp.fft.rfft2(jax.random.normal(white, (count, *shape)), axes=(1, 2)) * power
    x = jnp.fft.irfft2(spectrum, s=(height, width), axes=(1, 2))
    return x / (x.std((1, 2), keepdims=True) + 1e-6)


def level_lines(x: Array) -> Array:
    """Lines where fields cross a level."""
    return 0.7 - 2 * jnp.abs(x)


def ramps(key: Key, count: int, shape: Shape) -> Array:
    """Ramps with a wave on them, [count, H, W, D]."""
    direction, wave = jax.random.split(key)
    turned = jnp.einsum("hwa,nab->nhwb", places(shape), jax.random.normal(direction, (count, 2, 2 * shape[2])))
    ramp, across = jnp.split(turned, 2, -1)
    phase, *log_frequencies = uniforms(wave, count, (0, 2 * math.pi), *[(0, 2.5)] * shape[2])
    return ramp + jnp.sin(jnp.exp(jnp.concatenate(log_frequencies, -1)) * across + phase)


def dead_leaves(key: Key, count: int, shape: Shape) -> Array:
    """Discs and boxes of plain colours that cover one another, their sizes of all scales: [count, H, W, D]."""
    outline, colour = jax.random.split(key)
    x, y, wide, high, kind = jax.random.uniform(outline, (5, LEAVES, count, 1, 1, 1))
    colours = jax.random.normal(colour, (LEAVES, count, 1, 1, shape[2]))
    centres = 2 * jnp.concatenate([y, x], -1) - 1
    sizes = 0.08 / (1 - jnp.concatenate([high, wide], -1))  # .08 times the exponential of an exponential variable

    def covered(image: Array, leaf: tuple[Array, ...]) -> tuple[Array, None]:
        centre, size, shade, box = leaf
        beyond = (places(shape) - centre) / size
        distance = jnp.where(
            box, jnp.abs(beyond).max(-1, keepdims=True), jnp.linalg.norm(beyond, axis=-1, keepdims=True)
        )
        return jnp.where(distance < 1, shade, image), None

    ground = jnp.broadcast_to(colours[0], (count, *shape))
    return jax.lax.scan(covered, ground, (centres, sizes, colours, kind < 0.5))[0]


def toned(key: Key, x: Array) -> Array:
    """Fields [N, H, W, D] as images in [0, 1]: each has its contrast and brightness, its channels are mostly alike."""
    chances, tint = jax.random.split(key)
    apart, contrast, offset = uniforms(chances, len(x), (0, 1), (math.log(0.5), math.log(12)), (-1.8, 0.5))
    apart = jnp.square(apart)
    x = (1 - apart) * x[..., :1] + apart * (x + jax.random.normal(tint, (len(x), 1, 1, x.shape[-1])))
    return jax.nn.sigmoid(jnp.exp(contrast) * (x + offset))


def vignettes(key: Key, images: Array) -> Array:
    """Images within a disc, on a black ground, one in five on a white one."""
    radius, white = uniforms(key, len(images), (0.3, 1.2), (0, 1))
    from_centre = jnp.linalg.norm(places(images.shape[1:]), axis=-1, keepdims=True)
    return jnp.where(from_centre < radius, images, (white < 0.2).astype(images.dtype))


def papers(key: Key, grounds: Array) -> tuple[Array, Array]:
    """What a pen draws on, [2N, H, W, D], and its colours, [2N, 1, 1, D].

    First N plain grounds, half of them black under a white pen; then the N given ones [N, H, W, D] with less contrast.
    """
    *shades, full, weaker = uniforms(key, 2 * len(grounds), *[(0, 1)] * (2 * grounds.shape[3]), (0, 1), (0.1, 1))
    plain, colours = jnp.split(jnp.concatenate(shades, -1), 2, -1)
    of_plain = jnp.arange(len(plain))[:, None, None, None] < len(grounds)
    black = of_plain & (full < 0.5)
    means = grounds.mean((1, 2), keepdims=True)
    given = jnp.concatenate([grounds, means + weaker[len(grounds) :] * (grounds - means)])
    return jnp.where(of_plain, jnp.where(black, 0.0, plain), given), jnp.where(black, 1.0, colours)


def ink(key: Key, count: int, shape: Shape) -> Array:
    """How much of a pen's ink is where, [count, H, W, 1] in [0, 1]: a few curves and arcs.

    Half of them each begin where the one before ends.
    """
    lines, pen = jax.random.split(key)
    strokes, height, width, thick, soft = uniforms(pen, count, (0, STROKES), (0.5, 1), (0.5, 1), PEN, PEN)
    points = pen_paths(lines, count) * jnp.concatenate([height, width], -1)
    begin, step = points[:, :, :-1, :], jnp.diff(points, axis=2)
    beyond = places(shape)[:, :, None, None] - begin[:, None, None]
    step = step[:, None, None]
    along = jnp.clip((beyond * step).sum(-1) / (jnp.square(step).sum(-1) + 1e-6), 0, 1)
    distances = jnp.sqrt(jnp.square(beyond - along[..., None] * step).sum(-1)).min(-1)
    nearest = jnp.where(jnp.arange(STROKES) < strokes, distances, jnp.inf).min(-1, keepdims=True)
    return jax.nn.sigmoid((jnp.exp(thick) - nearest) / (0.3 * jnp.exp(soft)))


def pen_paths(key: Key, count: int) -> Array:
    """Cubic curves and parts of ellipses within about 1, by their corners: [count, STROKES, CORNERS, 2]."""
    drawn = jax.random.uniform(key, (count, STROKES, 16, 1))
    t = jnp.linspace(0, 1, CORNERS)
    controls = 1.8 * drawn[:, :, :8].reshape(count, STROKES, 4, 2) - 0.9
    basis = jnp.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], -1)
    curves = jnp.einsum("tc,nsca->nsta", basis, controls)
    middle, radii, extent = (drawn[:, :, at : at + 2].swapaxes(2, 3) for at in (8, 10, 12))
    begin, turn = 2 * jnp.pi * (0.3 + 0.7 * extent[..., :1]), 2 * jnp.pi * (0.3 + 0.7 * extent[..., 1:])
    angle = begin + turn * t[:, None] + jnp.array([0, jnp.pi / 2])
    arcs = middle - 0.5 + (0.15 + 0.45 * radii) * jnp.sin(angle)
    paths = jnp.where(drawn[:, :, 14:15] < 0.3, arcs, curves)
    joined, at = [paths[:, 0]], drawn[:, :, 15] < 0.5
    for stroke in range(1, STROKES):
        path = paths[:, stroke]
        moved = path + joined[-1][:, -1:] - path[:, :1]
        joined.append(jnp.where(at[:, stroke, None], moved, path))
    return jnp.stack(joined, 1)


def places(shape: Shape) -> Array:
    """Row and column of each pixel, [H, W, 2], from -1 to 1."""
    return jnp.stack(jnp.meshgrid(*(jnp.linspace(-1, 1, size) for size in shape[:2]), indexing="ij"), -1)
