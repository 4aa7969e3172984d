"""What an installation without extras can do, and what it says of the rest."""

import subprocess
import sys

ABSENT = ("array_record", "h5py", "sklearn", "tensorflow", "tensorflow_datasets", "torch")
BLOCK = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def without_extras(code, *arguments):
    """What a fresh interpreter prints that finds none of `ABSENT`."""
    return subprocess.run([sys.executable, "-c", BLOCK + code, *arguments], capture_output=True, text=True, timeout=300)


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
