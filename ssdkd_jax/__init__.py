"""Data-free knowledge distillation in JAX/Flax.

    teacher = ssdkd_jax.Teacher.load("teachers/mine")
    distilled = ssdkd_jax.distill(teacher, "wrn10_1")
    distilled.student.save("student")

`Teacher` is made from a saved network, PyTorch's files and modules, linen, NNX, or a function. `distill` gives a
student, `synthesize` images alone, `load` a saved network. The stations of a run, and every loss, are modules of this
package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ssdkd_jax import config, losses, presets, recipes
    from ssdkd_jax.api.comparison import compare, read_images
    from ssdkd_jax.api.distillation import Distilled, distill
    from ssdkd_jax.api.rules import default_config
    from ssdkd_jax.api.synthesis import SyntheticSet, synthesize
    from ssdkd_jax.api.teachers import Teacher
    from ssdkd_jax.errors import InputError
    from ssdkd_jax.interop.saved import Classifier, load

__all__ = [
    "Classifier",
    "Distilled",
    "InputError",
    "SyntheticSet",
    "Teacher",
    "compare",
    "config",
    "default_config",
    "distill",
    "load",
    "losses",
    "presets",
    "read_images",
    "recipes",
    "synthesize",
]

_PLACES = {
    "Classifier": "interop.saved",
    "Distilled": "api.distillation",
    "InputError": "errors",
    "SyntheticSet": "api.synthesis",
    "Teacher": "api.teachers",
    "compare": "api.comparison",
    "default_config": "api.rules",
    "distill": "api.distillation",
    "load": "interop.saved",
    "read_images": "api.comparison",
    "synthesize": "api.synthesis",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for, so that `import ssdkd_jax` is quick."""
    if name in _PLACES:
        return getattr(importlib.import_module(f"ssdkd_jax.{_PLACES[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"ssdkd_jax.{name}")
    raise AttributeError(f"module 'ssdkd_jax' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
