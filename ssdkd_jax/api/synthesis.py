"""Synthetic images of a teacher, with what it answers to them."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ssdkd_jax import build, presets
from ssdkd_jax import config as settings
from ssdkd_jax.api import rules
from ssdkd_jax.api.teachers import Teacher
from ssdkd_jax.engine import files, loop, parallel
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop.saved import Classifier
from ssdkd_jax.models import OWN
from ssdkd_jax.report import plots, progress
from ssdkd_jax.run import pictures
from ssdkd_jax.types import Array, Inputs, Key, Network, Preview, Variables

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from ml_collections import ConfigDict

AT_ONCE = 256


@dataclasses.dataclass(frozen=True, eq=False)
class SyntheticSet:
    """Images that a teacher takes for its training data.

    They may show what the teacher was trained on: treat them as its owner would.

    Attributes:
        images: uint8 [M, H, W, D].
        labels: int32 [M], the teacher's classes; where it labels pixels, the rarest class that covers enough of an
            image.
        confidence: [M], the teacher's probability of them, in [0, 1].
        logits: [M, C] (of pixels [M, H, W, C]), the teacher's answers.
        classes: C.
    """

    images: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray
    logits: np.ndarray
    classes: int

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.images.shape[1:]))
        counts = np.bincount(self.labels, minlength=self.classes)
        return f"SyntheticSet({len(self)} images {shape}, {counts.min()} to {counts.max()} of each class)"

    def save(self, path: str | Path) -> None:
        """Write an .npz file of the arrays, or a folder of PNG files, below it a folder for each class.

        Args:
            path: of a file that ends in .npz, or of a folder that is not there yet, or empty.

        Raises:
            InputError: for a folder that holds anything.
        """
        path = Path(path)
        if path.suffix == ".npz":
            content = io.BytesIO()
            arrays = {name: getattr(self, name) for name in ("images", "labels", "confidence", "logits")}
            np.savez_compressed(content, **arrays)
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(path, content.getvalue())
            return
        check_output(path)
        if self.images.shape[-1] not in (1, 3):
            raise InputError(f"Images of {self.images.shape[-1]} channels are no PNG; save them as .npz.")
        for number, (image, label) in enumerate(zip(self.images, self.labels, strict=True)):
            folder = path / f"{label:0{len(str(self.classes - 1))}d}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).save(folder / f"{number:05d}.png")

    def plot(self, per_class: int = 12) -> Figure:
        """A figure of the images, a row a class."""
        grid = plots.class_grid(self.images, self.labels, self.classes, per_class)
        return plots.grid(grid, "synthetic images by the teacher's class")


def check_output(path: Path) -> None:
    """Raise InputError where images can be saved neither as an .npz file nor in a folder of their own."""
    if path.suffix != ".npz" and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"'{path}' is not an empty folder; name a new one, or a file that ends in .npz.")


def of_rows(teacher: Classifier, rows: Preview) -> SyntheticSet:
    """Images of a run, with the teacher's logits."""
    parts = [np.asarray(teacher(rows.images[at : at + AT_ONCE])) for at in range(0, len(rows.images), AT_ONCE)]
    logits = np.concatenate(parts) if parts else np.zeros((0, teacher.classes), np.float32)
    images, labels, confidence = (np.asarray(x) for x in (rows.images, rows.label, rows.confidence))
    return SyntheticSet(images, labels, confidence, logits, teacher.classes)


def synthesize(
    teacher: Teacher | str | Path,
    n: int,
    config: ConfigDict | str | None = None,
    *,
    task: str | None = None,
    seed: int | None = None,
) -> SyntheticSet:
    """`n` synthetic images of a teacher, its classes as even as it allows; no student is trained.

    They are made a batch a round by a generator that goes on learning; the newest come first.

    Args:
        teacher: or the folder of a saved one.
        n: how many; the next multiple of the batch is made, and the first `n` are returned.
        config: as of `distill`; what concerns a student does nothing.
        task: 'classification' or 'segmentation'; None: as the config says.
        seed: None: as the config says.

    Raises:
        InputError: a line for each fault.

    >>> import jax.numpy as jnp, ssdkd_jax
    >>> weights = jnp.linspace(-1, 1, 192).reshape(64, 3)
    >>> teacher = ssdkd_jax.Teacher.from_function(
    ...     lambda w, x: x.reshape(len(x), -1) @ w, weights, image_shape=(8, 8, 1)
    ... )
    >>> made = ssdkd_jax.synthesize(teacher, 20)
    >>> made.images.shape, made.labels.shape
    ((20, 8, 8, 1), (20,))
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InputError(f"n = {n!r} is not a whole number of at least 1; say how many images are to be made.")
    teacher = as_teacher(teacher)
    ruled = default_config(teacher) if config is None or isinstance(config, str) else config
    ruled = prepared(presets.apply(ruled, config) if isinstance(config, str) else ruled, task, seed)
    nobody = indifferent(teacher.inputs, ruled.task.name)
    ruled.synthesis.adv, ruled.student.regression, ruled.student.attention = 0.0, 0.0, 0.0
    batch = ruled.synthesis.batch or ruled.student.batch
    rounds = -(-n // batch)
    ruled.buffer.size = max(rounds * batch, ruled.student.batch)
    ruled.schedule.update(rounds=rounds + 1, warmup=rounds)
    settings.check(ruled)
    job = build.job(ruled, teacher.inputs, teacher.network, teacher.variables, learner=nobody)
    variables = parallel.to_devices(dict(teacher.variables))
    state = parallel.to_devices(loop.first(job.method, job.network, job.tx, ruled.seed))
    programs = loop.round_programs(job.method, job.step, job.plan)
    with progress.progress("synthesis", rounds) as advance:
        for _ in range(rounds):
            state, metrics = loop.synthesize(programs, state, variables)
            advance({name: float(np.mean(values)) for name, values in metrics.items()})
    rows = pictures.previewer(job, variables)(state)
    return of_rows(teacher, jax.tree.map(lambda x: x[:n], rows))


def as_teacher(given: Teacher | Classifier | str | Path) -> Teacher:
    """A teacher as it is, another classifier as a teacher, or the one saved in a folder.

    Raises:
        InputError: for anything else.
    """
    if isinstance(given, Teacher):
        return given
    if isinstance(given, Classifier):
        return Teacher(given.network, given.variables, given.inputs, given.name, given.note)
    if isinstance(given, str | Path):
        return Teacher.load(given)
    raise InputError(
        f"The teacher is a {type(given).__name__}; make one by Teacher.from_..., or name a saved one's folder."
    )


def default_config(teacher: Teacher, task: str = "classification") -> ConfigDict:
    """The config that `synthesize` follows where none is given."""
    config = rules.config_for(teacher.inputs, teacher.network, indifferent(teacher.inputs, task))
    config.task.name = task
    return config


def prepared(config: ConfigDict, task: str | None, seed: int | None) -> ConfigDict:
    """A copy of a config for networks that are handed over, with what the caller says besides."""
    config = config.copy_and_resolve_references()
    with config.ignore_type():
        config.data.update(name="none", folder="", crop=0)
        config.teacher.update(model=OWN, checkpoint="")
        config.student.model = OWN
        config.update(yardstick_steps=0, measure_unit=False)
        config.task.name = task or config.task.name
        config.seed = config.seed if seed is None else seed
    return config


def indifferent(inputs: Inputs, task: str) -> Network:
    """A student of no parameters, which answers nothing of any image."""

    def apply(variables: Variables, images: Array) -> Array:
        shape = images.shape[:3] if task == "segmentation" else images.shape[:1]
        return jnp.zeros((*shape, inputs.classes), jnp.float32) + variables["params"]["bias"]

    def train(variables: Variables, images: Array, key: Key | None = None) -> tuple[Array, Variables]:
        return apply(variables, images), variables

    return Network(lambda key: {"params": {"bias": jnp.zeros(inputs.classes)}}, apply, train)
