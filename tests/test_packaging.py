"""What an installation without extras can do, and what it says of the rest."""

import subprocess
import sys

ABSENT = ("array_record", "h5py", "sklearn", "tensorflow", "tensorflow_datasets", "torch")
BESIDE = ("dm_pix", "matplotlib", "ml_collections", "PIL", "safetensors", "tensorboardX", "tqdm")
BLOCK = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def without(absent, code, *arguments):
    """What a fresh interpreter prints that finds none of some packages."""
    command = [sys.executable, "-c", BLOCK.format(absent=absent) + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def without_extras(code, *arguments):
    """What a fresh interpreter prints that finds none of `ABSENT`."""
    return without(ABSENT, code, *arguments)


def test_every_module_but_those_of_real_data_is_imported_without_an_extra():
    code = (
        "import importlib, pkgutil, ssdkd_jax\n"
        "names = [m.name for m in pkgutil.walk_packages(ssdkd_jax.__path__, 'ssdkd_jax.', onerror=print)]\n"
        "names = [n for n in names if not n.startswith('ssdkd_jax.data.')]\n"
        "for name in names:\n"
        "    importlib.import_module(name)\n"
        "from ssdkd_jax import config\n"
        "config.check(config.default())\n"
        "print(len(names) > 60, 'ssdkd_jax.run.pipeline' in names)"
    )
    ended = without_extras(code)
    assert (ended.returncode, ended.stdout.strip()) == (0, "True True"), ended.stderr


ASKED = {
    "data.load('digits')": "sklearn",
    "data.load('scenes')": "sklearn",
    "data.load('cifar10')": "array_record",
    "data.load('fashion_mnist')": "array_record",
    "data.load('fashion_colour')": "array_record",
    "data.load('nyuv2')": "tensorflow_datasets",
}


def test_real_data_asked_for_without_their_packages_are_one_sentence():
    code = (
        "import numpy\n"
        "from ssdkd_jax import data, errors\n"
        f"for call in {list(ASKED)}:\n"
        "    try:\n"
        "        eval(call)\n"
        "    except errors.MissingError as error:\n"
        "        print(error)"
    )
    ended = without_extras(code)
    told = [f"The package {name} is not installed; pip install 'ssdkd_jax[data]'." for name in ASKED.values()]
    assert (ended.returncode, ended.stdout.splitlines()) == (0, told), ended.stderr


def test_a_pytorch_file_without_pytorch_is_one_sentence(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"PK")
    code = (
        "from ssdkd_jax import errors\n"
        "from ssdkd_jax.interop import torch_files\n"
        "try:\n"
        "    torch_files.read(sys.argv[1])\n"
        "except errors.MissingError as error:\n"
        "    print(error)"
    )
    ended = without_extras(code, str(tmp_path / "model.pth"))
    told = "PyTorch files need PyTorch: pip install 'ssdkd_jax[torch]', or use .safetensors instead."
    assert (ended.returncode, ended.stdout.strip()) == (0, told), ended.stderr


STEP = """
import flax.linen as nn, jax, jax.numpy as jnp
from ssdkd_jax import augment, hints, losses, models, student
from ssdkd_jax.engine import checkpoint, optimization
from ssdkd_jax.tasks import classification
from ssdkd_jax.types import Batch

task, tx = classification.make(3, 4.0), optimization.sgd(0.1, 10, 0.0, 0.1)
network = models.bind(models.by_name("wrn10_1", 3), (8, 8, 1))
images = jax.random.uniform(jax.random.key(0), (6, 8, 8, 1))
answers = jax.random.normal(jax.random.key(1), (6, 3))
seen = jax.vmap(augment.make(False, 0))(jax.random.split(jax.random.key(2), 6), images)
batch = Batch(images=seen, teacher_logits=answers, weights=jnp.ones(6), slots=jnp.arange(6))
step = jax.jit(student.make_step(network, task, hints.none(), tx, None))
state = optimization.init(network, tx, jax.random.key(3))
for _ in range(10):
    state, gaps, metrics = step(state, batch)
    first = locals().get("first", metrics["distillation"])
checkpoint.save(sys.argv[1], 1, jax.device_get(state))
learnt, same = bool(metrics["distillation"] < first), float(losses.kl_divergence(answers, answers).max())
print(learnt, checkpoint.steps(sys.argv[1]), same)
"""


def test_losses_and_a_jitted_step_run_with_jax_flax_optax_orbax_and_chex_alone(tmp_path):
    absent = tuple(name for name in (*ABSENT, *BESIDE) if name != "tensorflow")  # orbax's paths look for that one
    ended = without(absent, STEP, str(tmp_path / "saved"))
    assert (ended.returncode, ended.stdout.strip()) == (0, "True [1] 0.0"), ended.stderr


def test_what_needs_another_package_says_so_in_one_sentence(tmp_path):
    code = (
        "import logging\n"
        "from pathlib import Path\n"
        "from ssdkd_jax import augment, cli, config, errors\n"
        "from ssdkd_jax.report import progress\n"
        "for call in (config.default, lambda: augment.make(True, 0), lambda: augment.resized_crop(0.5)):\n"
        "    try:\n"
        "        call()\n"
        "    except errors.MissingError as error:\n"
        "        print(error)\n"
        "logging.basicConfig(stream=sys.stdout, format='%(message)s')\n"
        "board = progress.Board(Path(sys.argv[1]))\n"
        "board.scalars({'loss': 1.0}, 1)\n"
        "board.close()\n"
        "sys.argv[:] = ['ssdkd', 'export']\n"
        "cli.main()\n"
    )
    ended = without(("dm_pix", "ml_collections", "tensorboardX"), code, str(tmp_path))
    told = [
        f"The package {name} is not installed; pip install {wanted}."
        for name, wanted in (
            ("ml_collections", "ml-collections"),
            ("dm_pix", "dm-pix"),
            ("dm_pix", "dm-pix"),
            ("tensorboardX", "tensorboardX"),
        )
    ]
    told[-1] += " The run goes on without TensorBoard."
    assert (ended.returncode, ended.stdout.splitlines()) == (1, told), ended.stderr
    assert ended.stderr == f"Error: {told[0]}\n"
