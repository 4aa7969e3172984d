"""Random views of an image: flips, shifts and crops, each decided by a key."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import jax
import jax.numpy as jnp

from ssdkd_jax import settings
from ssdkd_jax.errors import needs
from ssdkd_jax.settings import setting
from ssdkd_jax.types import Array, Key

View = Callable[[Key, Array], Array]
UNLABELLED = 255


@settings.section("views")
class Settings:
    """The views that the student sees."""

    flip: bool = setting(True, "mirror the images at random")
    shift: int = setting(2, "move them by at most this many pixels", least=0)
    colour: float = setting(0.0, "how much contrast, saturation, brightness and hue change", least=0, most=1)

    def view(self) -> View:
        """As `make`, then `jitter`."""
        moved = make(self.flip, self.shift)
        if not self.colour:
            return moved
        coloured = jitter(self.colour)
        return lambda key, image: coloured(jax.random.fold_in(key, 1), moved(key, image))


@settings.section("views")
class Mixup:
    """Which of the student's images are blended with others."""

    mixup: float = setting(0.0, "their share; with count=0 alone", least=0, most=1)
    mixup_until: float = setting(
        0.98, "fraction of its steps; BatchNorm statistics are to be of images as they are", least=0, most=1
    )

    def schedule(self, steps: int) -> Callable[[Array], Array] | None:
        """Student step of `steps` -> the share of images to blend; None where that is none."""
        end = math.ceil(self.mixup_until * steps)
        return (lambda step: jnp.where(step < end, jnp.float32(self.mixup), 0.0)) if self.mixup else None


def _pix() -> ModuleType:
    """dm-pix, which makes views; nothing else needs it."""
    with needs():
        import dm_pix
    return dm_pix


def make(flip: bool, shift: int, crop: int = 0) -> View:
    """(key, image [H, W, D]) -> image: mirrored with probability 1/2, moved by at most `shift` pixels.

    The uncovered border is zero, as in the usual CIFAR recipe. With `crop`, [crop, crop, D] of what is then seen.

    Raises:
        MissingError: without dm-pix, where there is anything to do.
    """
    pix = _pix() if flip or shift or crop else None

    def view(key: Key, image: Array) -> Array:
        key_flip, key_shift, key_crop = jax.random.split(key, 3)
        if flip:
            image = pix.random_flip_left_right(key_flip, image)
        if shift:
            padded = jnp.pad(image, ((shift, shift), (shift, shift), (0, 0)))
            image = pix.random_crop(key_shift, padded, image.shape)
        if crop:
            image = pix.random_crop(key_crop, image, (crop, crop, image.shape[-1]))
        return image

    return view


def jitter(amount: float) -> View:
    """(key, image [H, W, D] in [0, 1]) -> image in other colours, in [0, 1].

    Contrast and saturation are multiplied by U(1 - amount, 1 + amount); brightness and hue, a whole turn of which is 1,
    are moved by at most half the amount. Hue and saturation are those of images in RGB alone.

    Raises:
        MissingError: without dm-pix.
    """
    pix, half = _pix(), amount / 2

    def view(key: Key, image: Array) -> Array:
        key_contrast, key_brightness, key_saturation, key_hue = jax.random.split(key, 4)
        image = pix.random_contrast(key_contrast, image, lower=1 - amount, upper=1 + amount)
        image = jnp.clip(pix.random_brightness(key_brightness, image, max_delta=half), 0, 1)
        if image.shape[-1] == 3:
            image = pix.random_saturation(key_saturation, image, lower=1 - amount, upper=1 + amount)
            image = pix.random_hue(key_hue, jnp.clip(image, 0, 1), max_delta=half)
        return jnp.clip(image, 0, 1)

    return view


def with_labels(view: View) -> Callable[[Key, Array, Array], tuple[Array, Array]]:
    """(key, image [H, W, D], labels) -> (image, labels), both under the same view.

    Labels of pixels, int [H, W] in [0, 255], move with them, and are `UNLABELLED` where a view uncovers
    the border; the label of a whole image, int [], stays.
    """

    def labelled(key: Key, image: Array, labels: Array) -> tuple[Array, Array]:
        if labels.ndim == 0:
            return view(key, image), labels
        raised = labels.astype(image.dtype)[..., None] - UNLABELLED  # so that the zeros of a border mean UNLABELLED
        moved = view(key, jnp.concatenate([image, raised], axis=-1))
        return moved[..., :-1], (moved[..., -1] + UNLABELLED).astype(labels.dtype)

    return labelled


def resized_crop(least: float) -> View:
    """(key, image [H, W, D]) -> image: a random square part, enlarged to the whole, mirrored with probability 1/2.

    Args:
        least: smallest share of the area that is kept, in (0, 1].

    Raises:
        MissingError: without dm-pix.
    """
    pix = _pix()

    def view(key: Key, image: Array) -> Array:
        key_area, key_place, key_flip = jax.random.split(key, 3)
        size = jnp.asarray(image.shape[:2], jnp.float32)
        zoom = 1.0 / jnp.sqrt(jax.random.uniform(key_area, (), jnp.float32, minval=least, maxval=1.0))
        corner = jax.random.uniform(key_place, (2,), jnp.float32) * size * (zoom - 1.0)
        part = jax.image.scale_and_translate(
            image, image.shape, (0, 1), jnp.full(2, zoom), -corner, "linear", antialias=False
        )
        return pix.random_flip_left_right(key_flip, part)

    return view


def mixup(key: Key, images: Array, share: float | Array) -> tuple[Array, Array]:
    """Some images of a batch blended with others of it: l x + (1 - l) x', l ~ U(0, 1).

    Zhang et al. (ICLR 2018), with alpha = 1; that the teacher be asked about the blend is of Beyer et al. (CVPR 2022).

    Args:
        images: [B, ...].
        share: the probability of each image to be blended.

    Returns:
        The images, and which of them stayed as they are: bool [B].
    """
    key_chosen, key_partner, key_amount = jax.random.split(key, 3)
    rows = (len(images), *(1,) * (images.ndim - 1))
    chosen = jax.random.bernoulli(key_chosen, share, rows)
    own = jnp.where(chosen, jax.random.uniform(key_amount, rows, jnp.float32), 1.0)
    return own * images + (1.0 - own) * jax.random.permutation(key_partner, images), ~chosen.ravel()


def to_float(images: Array) -> Array:
    """uint8 [0, 255] -> float32 [0, 1]."""
    return images.astype(jnp.float32) / 255.0


def to_uint8(images: Array) -> Array:
    """float32 [0, 1] -> uint8 [0, 255], rounded."""
    return jnp.round(jnp.clip(images, 0.0, 1.0) * 255.0).astype(jnp.uint8)
