"""Whether a student starts from its teacher, and on which images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ssdkd_jax import settings, sources
from ssdkd_jax.settings import setting
from ssdkd_jax.sources import procedural
from ssdkd_jax.types import Array, Key

LEAST = 16


@settings.section("student")
class StartName:
    """How the student starts."""

    start: str = setting(
        "random",
        "teacher: solved for in closed form after the warmup's rounds, the first at least",
        choices=("random", "teacher"),
    )


@settings.section("student")
class StartImages:
    """On which images the student's start is solved for."""

    start_images: int = setting(512, "of those made so far, at most so many serve the start", least=0)
    start_procedural: int = setting(512, "procedural images that serve it beside them", least=0)

    def faults(self) -> Iterator[str]:
        """Where there are too few of them."""
        if self.start_images + self.start_procedural < LEAST:
            yield (
                f"student.start_images = {self.start_images} and student.start_procedural = {self.start_procedural} "
                f"are too few images to start from the teacher; let them be {LEAST} together at least."
            )

    @classmethod
    def chosen(cls, reader: settings.Reader) -> StartImages | None:
        """As a config has them; None where the student starts at random."""
        return reader(cls) if reader(StartName).start == "teacher" else None

    def images(self, key: Key, made: np.ndarray) -> Array:
        """The images of a start, [N, H, W, D] float32 in [0, 1].

        Args:
            made: uint8 [M, H, W, D], M at least 1.
        """
        parts = []
        if count := min(self.start_images, len(made)):
            parts.append(sources.stored(made, count))
        if self.start_procedural:
            parts.append(procedural.source(self.start_procedural, made.shape[1:]))
        return sources.mixture(parts)(key)
