"""How a run goes on: seconds by stage, a progress bar, TensorBoard."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import TqdmWarning

from ssdkd_jax.engine import files, hosts
from ssdkd_jax.errors import MissingError, needs

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TqdmWarning)  # in a notebook without ipywidgets; its bars are then of text
    from tqdm.auto import tqdm

log = logging.getLogger(__name__)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
IN_THE_BAR = ("accuracy", "miou", "agreement", "inversion", "distillation", "loss")


class Stopwatch:
    """Seconds by stage, summed over a run and its resumptions.

    Args:
        seconds: by stage, to begin with.
        clock: of `CLOCKS`; 'cpu' counts the processor seconds of this process.
    """

    def __init__(self, seconds: dict[str, float] | None = None, clock: str = "wall"):
        self.seconds, self.clock = {}, clock
        self.add(seconds or {})

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = CLOCKS[self.clock]()
        try:
            yield
        finally:
            self.add({stage: CLOCKS[self.clock]() - start})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add seconds of several stages."""
        for stage, value in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + value

    @property
    def of_process(self) -> bool:
        """Whether processor seconds are counted, those of all threads."""
        return self.clock == "cpu"

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())


@contextlib.contextmanager
def progress(
    stage: str, total: int, done: int = 0, visible: bool = True
) -> Iterator[Callable[[dict[str, float]], None]]:
    """A bar of `total` units with time left; the value it yields advances it by one and shows metrics."""
    with tqdm(total=total, initial=done, desc=stage, dynamic_ncols=True, file=sys.stderr, disable=not visible) as bar:

        def advance(metrics: dict[str, float]) -> None:
            in_bar = {name: f"{value:.4g}" for name, value in metrics.items() if name in IN_THE_BAR}
            bar.set_postfix(in_bar, refresh=False)
            bar.update()

        yield advance


def say(line: str) -> None:
    """A line beside the bars, on the first host."""
    if hosts.is_first():
        tqdm.write(line, file=sys.stderr)


class Nowhere:
    """A writer of TensorBoard's that keeps nothing."""

    def add_scalar(self, *_: Any) -> None:
        """Nothing."""

    def add_image(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def _writer(folder: Path) -> Any:
    files.make_folder(folder)
    try:
        with needs():
            from tensorboardX import SummaryWriter  # imports PyTorch where it is installed, which takes a second
    except MissingError as error:
        log.warning("%s The run goes on without TensorBoard.", error)
        return Nowhere()
    return SummaryWriter(str(folder))


class Board:
    """TensorBoard scalars and image grids below `folder`, which may not be a link; nowhere where it is None.

    Nowhere, too, without tensorboardX, and a line says so.
    """

    def __init__(self, folder: Path | None):
        self.writer = Nowhere() if folder is None else _writer(folder)

    def scalars(self, metrics: dict[str, float], step: int) -> None:
        """One point of each curve."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """An image [H, W, D], uint8; of other channels than 1, 3 or 4, the first."""
        image = image if image.shape[-1] in (1, 3, 4) else image[..., :1]
        self.writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is pending."""
        self.writer.close()
