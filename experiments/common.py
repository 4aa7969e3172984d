"""What the scripts share: flags, one-sentence errors, data, and the teacher."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from ssdkd_jax import build, data
from ssdkd_jax.engine import checkpoint, environment, evaluation, hosts, optimization, parallel, preemption, supervised
from ssdkd_jax.engine import workdir as folders
from ssdkd_jax.interop import saved
from ssdkd_jax.report import progress

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/; fields are overridden as --config.x.y=v.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, plots, summary.json.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "ADDRESS:PORT of the first of several hosts; 'auto': the cluster's."
)
HOSTS = flags.DEFINE_integer("hosts", None, "How many hosts run this command together.")
HOST = flags.DEFINE_integer("host", None, "The number of this one, from 0.")
EVALUATED_PIXELS = 512 * 1024  # at once, at most
EXPECTED = (ValueError, FileNotFoundError, FloatingPointError, OSError)


def launch(main: Callable[[], None], required: Sequence[str] = ("config", "workdir")) -> None:
    """Parse the flags and run `main`; what a user can mend ends in one sentence and exit code 1.

    A run stopped by SIGTERM ends with `preemption.EXIT_CODE`.
    """
    flags.mark_flags_as_required(required)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ssdkd_jax"
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if not environment.can_cache_programs(os.environ):
        jax.config.update("jax_enable_compilation_cache", False)

    logging.set_verbosity(logging.WARNING)

    def guarded(_: Sequence[str]) -> None:
        try:
            if COORDINATOR.value or HOSTS.value or hosts.asked_for():
                address = "" if COORDINATOR.value == "auto" else COORDINATOR.value
                hosts.join(address, HOSTS.value, HOST.value)
            main()
        except preemption.Preempted as stopped:
            print(stopped, file=sys.stderr)
            sys.exit(preemption.EXIT_CODE)
        except EXPECTED as error:
            sys.exit(f"Error: {folders.explain(error)}")

    app.run(guarded, flags_parser=_parse)


def _parse(argv: Sequence[str]) -> Sequence[str]:
    """Parse the flags; an unknown config field is one sentence that names the nearest."""
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        patterns = (r"^\W*(?:Key\W+)?(\w+)", r"Did you mean\W+(\w+)")
        field, near = (re.search(pattern, str(error)) for pattern in patterns)
        hint = f"; did you mean '{near.group(1)}'?" if near else "."
        sys.exit(f"Error: the config has no field '{field.group(1)}'{hint}" if field else f"Error: {error}")
    except (flags.Error, FileNotFoundError, TypeError) as error:
        sentence = str(error).rpartition("ValueError: ")[2]  # of a config file, below its traceback
        sys.exit("Error: " + " ".join(sentence.split()))


@contextlib.contextmanager
def claimed(workdir: Path) -> Iterator[None]:
    """No other process may use the folder meanwhile; of several hosts, the first claims it for all."""
    with folders.claim(workdir) if hosts.is_first() else contextlib.nullcontext():
        yield


def stop() -> bool:
    """Whether SIGTERM has come to any host."""
    return hosts.any_of(preemption.requested())


def load_data(config: ConfigDict) -> tuple[data.Dataset, build.Inputs]:
    """The data set of the config, and what a network needs to know of it."""
    dataset = data.load(config.data.name, config.data.folder)
    shape, crop = dataset.train_images.shape[1:], config.data.crop
    if crop > min(shape[:2]):
        raise ValueError(f"data.crop = {crop} is more than the images have ({shape[0]}x{shape[1]}); make it smaller.")
    image_shape = (crop, crop, shape[2]) if crop else shape
    return dataset, build.Inputs(image_shape, dataset.classes, dataset.mean, dataset.std)


def evaluator(config: ConfigDict, network: build.Network, dataset: data.Dataset) -> Callable:
    """variables on the devices -> held-out scores."""
    task = build.task(config, dataset.classes)
    height, width = dataset.test_images.shape[1:3]
    batch = min(500, max(1, EVALUATED_PIXELS // (height * width)))
    return evaluation.make(network, task, dataset.test_images, dataset.test_labels, batch)


def note(model: str, inputs: build.Inputs, **more: float) -> dict:
    """What is saved beside a model's weights."""
    return {
        "model": model,
        "classes": inputs.classes,
        "image_shape": list(inputs.image_shape),
        "mean": list(inputs.mean),
        "std": list(inputs.std),
        **more,
    }


def load_model(folder: str | Path, model: str | None, inputs: build.Inputs, compute: str) -> saved.Saved:
    """A saved model, checked against the data.

    Args:
        model: its name; None takes the one that was saved with it.
        compute: as of `models.bind`.

    Raises:
        FileNotFoundError, ValueError: as `saved.load`; or where it is of another class count or image shape.
    """
    found = saved.load(folder, model, compute)
    if found.note["classes"] != inputs.classes:
        raise ValueError(
            f"The model in {folder} knows {found.note['classes']} classes, but the data have {inputs.classes}; "
            "use a model of the same classes."
        )
    if tuple(found.note["image_shape"]) != tuple(inputs.image_shape):
        raise ValueError(
            f"The model in {folder} takes images of shape {found.note['image_shape']}, but the data have "
            f"{list(inputs.image_shape)}; use a model of the same image size."
        )
    return found


def obtain_teacher(
    config: ConfigDict, workdir: Path, dataset: data.Dataset, inputs: build.Inputs, clock: progress.Stopwatch
) -> tuple[build.Network, dict]:
    """The teacher named by the config, or the one under the workdir, trained first where there is none."""
    folder = Path(config.teacher.checkpoint or workdir / "teacher")
    if not config.teacher.checkpoint and not checkpoint.steps(folder):
        with clock("teacher"):
            train_teacher(config, workdir, dataset, inputs)
    teacher = load_model(folder, config.teacher.model, inputs, config.compute)
    return teacher.network, dict(teacher.variables)


def train_teacher(config: ConfigDict, workdir: Path, dataset: data.Dataset, inputs: build.Inputs) -> float:
    """Train the teacher on the real images, save it under the workdir, and return its score on the test images."""
    network = build.network(config.teacher.model, inputs, compute=config.compute)
    task = build.task(config, inputs.classes)
    parallel.check_batch("teacher.batch", config.teacher.batch)
    recipe = build.teacher_recipe(config, len(dataset.train_images))
    key_init, key_fit = jax.random.split(jax.random.key(config.seed))
    training = workdir / "teacher_training"
    state = parallel.quick_jit(partial(optimization.init, network, recipe.tx))(key_init)
    _, state, _ = checkpoint.restore(training, state) or (0, state, {})
    save = Saver(training, config.schedule.checkpoint_seconds)
    done = int(state.step) // (len(dataset.train_images) // recipe.batch)
    shown = hosts.is_first()
    with progress.progress("teacher", recipe.epochs, done, shown) as advance:

        def on_epoch(epoch: int, state: optimization.ModelState, metrics: dict[str, float]) -> None:
            advance(metrics)
            save.now_and_then(int(parallel.unreplicate(state.step)), state, {})

        state = parallel.to_devices(state)
        data = dataset.train_images, dataset.train_labels
        state = supervised.fit(network, task, recipe, state, *data, key_fit, on_epoch, stop)
    done = int(parallel.unreplicate(state.step))
    if done < recipe.epochs * (len(dataset.train_images) // recipe.batch):
        save.now(done, state, {})
        raise preemption.Preempted(f"Stopped by SIGTERM after {done} steps of the teacher; the same command goes on.")
    parallel.check_replicated(state)
    score = evaluator(config, network, dataset)(state.variables)[task.score]
    variables = parallel.to_host(state.variables)
    saved.save(workdir / "teacher", variables, note(config.teacher.model, inputs, **{task.score: score}))
    return score


class Saver:
    """Saves checkpoints no more often than every `seconds`."""

    def __init__(self, folder: Path, seconds: float):
        self.folder, self.seconds, self.last = folder, seconds, time.monotonic()

    def now_and_then(self, step: int, state: object, note: dict) -> None:
        """Save `state`, which is on the devices, where the last time is long enough ago on any host."""
        if hosts.any_of(time.monotonic() - self.last >= self.seconds):
            self.now(step, state, note)

    def now(self, step: int, state: object, note: dict) -> None:
        """Save `state`, which is on the devices."""
        checkpoint.save(self.folder, step, parallel.to_save(state), note)
        self.last = time.monotonic()
