"""Images drawn by a formula: noise of several spectra, its level lines, dead leaves, gradients, vignettes and strokes.

Ours, after networks that were trained on structured noise (Baradad et al., NeurIPS 2021). Each image has a scale, a
contrast and a brightness of its own; in colour, the channels of an image share most of what they show.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from ssdkd_jax.engine import parallel
from ssdkd_jax.sources import Source
from ssdkd_jax.types import Array, Key

Shape = tuple[int, int, int]
LEAVES = 40
STROKES, CORNERS = 3, 16


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
    *keys, ground, pen, order = jax.random.split(key, len(KINDS) + 3)
    each = -(-count // (len(KINDS) + 1))
    made = [
        jax.vmap(partial(kind, shape=shape))(jax.random.split(k, each)) for kind, k in zip(KINDS, keys, strict=True)
    ]
    grounds = jax.random.permutation(ground, jnp.concatenate(made))[:each]
    made.append(jax.vmap(drawn_on)(jax.random.split(pen, each), grounds))
    return jax.random.permutation(order, jnp.concatenate(made))[:count]


def noise(key: Key, shape: Shape) -> Array:
    """A noise field."""
    field, colour = jax.random.split(key)
    return toned(colour, fields(field, shape))


def level_lines(key: Key, shape: Shape) -> Array:
    """Lines where a noise field crosses a level."""
    field, colour = jax.random.split(key)
    return toned(colour, 0.7 - 2 * jnp.abs(fields(field, shape)))


def vignette(key: Key, shape: Shape) -> Array:
    """A noise field within a disc, on a plain ground."""
    field, place, colour = jax.random.split(key, 3)
    radius = jax.random.uniform(place, minval=0.3, maxval=1.2)
    x = toned(colour, fields(field, shape))
    inside = sum(jnp.square(axis) for axis in axes(shape)) < jnp.square(radius)
    return jnp.where(inside[..., None], x, jax.random.bernoulli(place, 0.2).astype(x.dtype))


def gradient(key: Key, shape: Shape) -> Array:
    """A ramp with a wave on it."""
    direction, wave, phase, colour = jax.random.split(key, 4)
    y, x = axes(shape)
    turned = jnp.stack([y, x], -1) @ jax.random.normal(direction, (2, 2 * shape[2]))
    ramp, across = jnp.split(turned, 2, -1)
    frequency = jnp.exp(jax.random.uniform(wave, (shape[2],), minval=0.0, maxval=2.5))
    return toned(colour, ramp + jnp.sin(frequency * across + jax.random.uniform(phase, maxval=2 * jnp.pi)))


def dead_leaves(key: Key, shape: Shape) -> Array:
    """Discs and boxes of plain colours that cover one another, their sizes of all scales."""
    place, size, colour, kind, tone = jax.random.split(key, 5)
    centres = jax.random.uniform(place, (LEAVES, 2), minval=-1.0, maxval=1.0)
    sizes = 0.08 * jnp.exp(jax.random.exponential(size, (LEAVES, 2)))
    colours = jax.random.normal(colour, (LEAVES, shape[2]))
    boxes = jax.random.bernoulli(kind, 0.5, (LEAVES,))

    def covered(image: Array, leaf: tuple[Array, ...]) -> tuple[Array, None]:
        centre, half, shade, box = leaf
        y, x = ((axis - c) / s for axis, c, s in zip(axes(shape), centre, half, strict=True))
        inside = jnp.where(box, jnp.maximum(jnp.abs(y), jnp.abs(x)), jnp.sqrt(y * y + x * x)) < 1
        return jnp.where(inside[..., None], shade, image), None

    ground = jnp.broadcast_to(colours[0], shape)
    return toned(tone, jax.lax.scan(covered, ground, (centres, sizes, colours, boxes))[0])


def strokes(key: Key, shape: Shape) -> Array:
    """What a pen draws on a plain ground, half of them white on black."""
    pen, plain, colours = jax.random.split(key, 3)
    ground, colour = jax.random.uniform(colours, (2, shape[2]))
    full = jax.random.bernoulli(plain)
    ground, colour = jnp.where(full, 0.0, ground), jnp.where(full, 1.0, colour)
    return ground + (colour - ground) * ink(pen, shape)


def drawn_on(key: Key, ground: Array) -> Array:
    """What a pen draws in one colour on a ground [H, W, D] of less contrast."""
    pen, shade, weaker = jax.random.split(key, 3)
    mean = ground.mean((0, 1))
    ground = mean + jax.random.uniform(weaker, minval=0.1, maxval=1.0) * (ground - mean)
    return ground + (jax.random.uniform(shade, (ground.shape[2],)) - ground) * ink(pen, ground.shape)


def ink(key: Key, shape: Shape) -> Array:
    """How much of a pen's ink is where, [H, W, 1] in [0, 1]: a few curves and arcs.

    Half of them each begin where the one before ends.
    """
    lines, count, size, pen = jax.random.split(key, 4)
    drawn = jnp.arange(STROKES) < jax.random.randint(count, (), 1, STROKES + 1)
    points = pen_paths(lines) * jax.random.uniform(size, (2,), minval=0.5, maxval=1.0)
    begin, step = points[:, :-1], jnp.diff(points, axis=1)
    beyond = jnp.stack(axes(shape), -1)[:, :, None, None] - begin
    along = jnp.clip((beyond * step).sum(-1) / (jnp.square(step).sum(-1) + 1e-6), 0, 1)
    distances = jnp.sqrt(jnp.square(beyond - along[..., None] * step).sum(-1)).min(-1)
    width, softness = jnp.exp(jax.random.uniform(pen, (2,), minval=jnp.log(0.05), maxval=jnp.log(0.2)))
    return jax.nn.sigmoid((width - jnp.where(drawn, distances, jnp.inf).min(-1)) / (0.3 * softness))[..., None]


def pen_paths(key: Key) -> Array:
    """Cubic curves and parts of ellipses, as the corners of `STROKES` paths: [STROKES, CORNERS, 2] within about 1."""
    curve, centre, radii, extent, kind, joined = jax.random.split(key, 6)
    t = jnp.linspace(0, 1, CORNERS)[:, None]
    basis = jnp.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    controls = jax.random.uniform(curve, (STROKES, 4, 1, 2), minval=-0.9, maxval=0.9)
    curves = (basis * controls).sum(1)
    begin, turn = 2 * jnp.pi * jax.random.uniform(extent, (2, STROKES, 1, 1), minval=0.3)
    angle = begin + turn * t + jnp.array([0, jnp.pi / 2])
    middle = jax.random.uniform(centre, (STROKES, 1, 2), minval=-0.5, maxval=0.5)
    arcs = middle + jax.random.uniform(radii, (STROKES, 1, 2), minval=0.15, maxval=0.6) * jnp.sin(angle)
    paths = jnp.where(jax.random.bernoulli(kind, 0.3, (STROKES, 1, 1)), arcs, curves)

    def follow(end: Array, stroke: tuple[Array, Array]) -> tuple[Array, Array]:
        path, follows = stroke
        path = path + jnp.where(follows, end - path[0], 0.0)
        return path[-1], path

    return jax.lax.scan(follow, paths[0, 0], (paths, jax.random.bernoulli(joined, 0.5, (STROKES,))))[1]


KINDS: tuple[Callable[..., Array], ...] = (noise, level_lines, vignette, gradient, dead_leaves, strokes)


def fields(key: Key, shape: Shape) -> Array:
    """Gaussian fields [H, W, D] of mean 0 and variance 1, their spectrum |f|^-s with s between .5 and 3."""
    white, slope = jax.random.split(key)
    height, width, _ = shape
    f = jnp.hypot(jnp.fft.fftfreq(height)[:, None], jnp.fft.rfftfreq(width)[None])
    power = jnp.where(f > 0, f, 1.0) ** -jax.random.uniform(slope, minval=0.5, maxval=3.0) * (f > 0)
    spectrum = jnp.fft.rfft2(jax.random.normal(white, shape), axes=(0, 1)) * power[..., None]
    x = jnp.fft.irfft2(spectrum, s=(height, width), axes=(0, 1))
    return x / (x.std((0, 1), keepdims=True) + 1e-6)


def toned(key: Key, x: Array) -> Array:
    """Fields [H, W, D] as an image in [0, 1]: of a contrast and brightness of its own, its channels mostly alike."""
    gain, offset, saturation, tint = jax.random.split(key, 4)
    apart = jnp.square(jax.random.uniform(saturation))
    x = (1 - apart) * x[..., :1] + apart * x + apart * jax.random.normal(tint, (1, 1, x.shape[-1]))
    contrast = jnp.exp(jax.random.uniform(gain, minval=jnp.log(0.5), maxval=jnp.log(12.0)))
    return jax.nn.sigmoid(contrast * (x + jax.random.uniform(offset, minval=-1.8, maxval=0.5)))


def axes(shape: Shape) -> tuple[Array, Array]:
    """Rows and columns, [H, W] each, from -1 to 1."""
    return tuple(jnp.meshgrid(*(jnp.linspace(-1, 1, size) for size in shape[:2]), indexing="ij"))
