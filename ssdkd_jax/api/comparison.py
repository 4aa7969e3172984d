"""Two networks on real images, with labels or without: how often they agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image, UnidentifiedImageError

from ssdkd_jax import losses
from ssdkd_jax.errors import InputError, MissingError
from ssdkd_jax.interop.images import as_float
from ssdkd_jax.interop.saved import Classifier

AT_ONCE = 256
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of images of so many channels


def compare(teacher: Classifier, student: Classifier, images: Any, labels: Any = None) -> dict[str, float]:
    """How often two classifiers of the same classes agree on images, and how right they are where there are labels.

    Args:
        images: [M, H, W, D], uint8 or in [0, 1].
        labels: int [M]; None: there are none.

    Returns:
        'agreement' in [0, 1], 'images', 'kl' in nats (mean KL of the student's answer from the teacher's), the
        teacher's mean 'confidence'; with labels also 'teacher_accuracy' and 'student_accuracy'.

    Raises:
        InputError: for images that the networks do not take, other classes, or labels that do not fit.

    >>> import jax.numpy as jnp, ssdkd_jax
    >>> teacher = ssdkd_jax.Teacher.from_function(
    ...     lambda w, x: x.reshape(len(x), -1) @ w, jnp.ones((64, 3)), image_shape=(8, 8, 1)
    ... )
    >>> ssdkd_jax.compare(teacher, teacher, jnp.zeros((5, 8, 8, 1)))["agreement"]
    1.0
    """
    if teacher.classes != student.classes:
        raise InputError(
            f"The teacher knows {teacher.classes} classes and the student {student.classes}; compare networks of the "
            "same classes."
        )
    as_float(images, teacher.takes)
    if not len(images):
        raise InputError("There is no image to compare on; give at least one.")
    f_t, f_s = (np.concatenate(list(_answers(network, images))) for network in (teacher, student))
    told, said = f_t.argmax(-1), f_s.argmax(-1)
    found = {
        "agreement": float(np.mean(told == said)),
        "images": len(images),
        "kl": float(losses.kl_divergence(jnp.asarray(f_t), jnp.asarray(f_s)).mean()),
        "confidence": float(np.exp(f_t - np.logaddexp.reduce(f_t, -1, keepdims=True)).max(-1).mean()),
    }
    if labels is None:
        return found
    labels = np.asarray(labels)
    fitting = labels.shape == told.shape and np.issubdtype(labels.dtype, np.integer)
    if not fitting or labels.min() < 0 or labels.max() >= teacher.classes:
        raise InputError(
            f"Labels are {labels.dtype} of shape {list(labels.shape)}; give whole numbers of shape {list(told.shape)}, "
            f"from 0 to {teacher.classes - 1}."
        )
    right = {f"{name}_accuracy": float(np.mean(one == labels)) for name, one in (("teacher", told), ("student", said))}
    return {**found, **right}


def _answers(network: Classifier, images: Any) -> Any:
    for start in range(0, len(images), AT_ONCE):
        yield np.asarray(network(images[start : start + AT_ONCE]))


def read_images(folder: str | Path, image_shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray | None]:
    """The images of a folder, and their labels where each lies in a folder named by the number of its class.

    Args:
        folder: of PNG, JPEG or other files that Pillow reads, at any depth.
        image_shape: (H, W, D), which all of them are to have; colours are converted to D channels.

    Returns:
        uint8 [M, H, W, D], and int32 [M] or None.

    Raises:
        InputError: for a file that is no image of that size, or where there is none at all.
    """
    folder, (height, width, channels) = Path(folder), image_shape
    if not folder.is_dir():
        raise MissingError(f"There is no folder '{folder}'; name one of images.")
    known = Image.registered_extensions()
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in known and path.is_file())
    if not paths:
        raise MissingError(f"'{folder}' holds no image; name a folder of PNG or JPEG files.")
    if channels not in MODES:
        raise InputError(f"Files of images have 1, 3 or 4 channels, and the network takes {channels}; call `compare`.")
    images = []
    for path in paths:
        try:
            with Image.open(path) as opened:
                image = np.asarray(opened.convert(MODES[channels]))
        except (OSError, UnidentifiedImageError) as error:
            raise InputError(f"'{path}' is no image that can be read ({error}); take it away.") from error
        if image.shape[:2] != (height, width):
            raise InputError(
                f"'{path}' is {image.shape[0]}x{image.shape[1]}, and the network takes {height}x{width}; resize it."
            )
        images.append(image.reshape(image_shape))
    names = [path.parent.name for path in paths]
    numbered = all(path.parent != folder and name.isdecimal() for path, name in zip(paths, names, strict=True))
    return np.stack(images), np.array([int(name) for name in names], np.int32) if numbered else None
