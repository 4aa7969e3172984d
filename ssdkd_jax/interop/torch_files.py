"""PyTorch checkpoints as files: PyTorch's own through PyTorch (an optional extra), .safetensors without it.

A file is what its content says, whatever its name. A checkpoint is untrusted input. Tensors alone are
read; sizes are checked against the file before anything is copied out of it; nothing in it is ever run.
PyTorch older than 2.10 is refused, since its `weights_only` could be made to run code (CVE-2025-32434,
CVE-2026-24747).
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from ssdkd_jax.engine import files
from ssdkd_jax.errors import InputError, MissingError
from ssdkd_jax.interop import torch_keys

TORCH = (2, 10)
INTEGERS = ("int64", "int32", "int16", "int8", "uint8")
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
FOREIGN = {
    b"\x89HDF": "an HDF5 file, as of Keras",
    b"\x93NUMPY": "a numpy array",
    b"GGUF": "a GGUF file",
    b"\x08": "a protocol buffer, as of ONNX or TensorFlow",
    b"\x0a": "a protocol buffer, as of TensorFlow",
}
ARCHIVES = {".npy": "numpy's archive of arrays", ".h5": "an archive of Keras"}
PICKLE = b"\x80"
DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1"}


class Stored(NamedTuple):
    """A tensor in a file; `np.asarray` reads it.

    Attributes:
        shape: of the tensor.
        dtype: of the array that is read.
        read: the array; read again at each call, so that one at a time is in memory.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.read(), dtype=dtype, copy=copy)


def read(path: str | Path) -> dict[str, Stored]:
    """The tensors of a checkpoint by key, as `torch_keys.cleaned` leaves them; their contents are not read yet.

    Args:
        path: of PyTorch with a state dict, bare or under one of `WRAPPERS`; or .safetensors.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is not whole, holds anything but tensors, or declares more than it holds;
            or where PyTorch is needed and is missing or too old.
    """
    return torch_keys.cleaned(read_raw(path)).state


def read_raw(path: str | Path) -> dict[str, Stored]:
    """As `read`, with the keys as they are in the file."""
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"No checkpoint '{path}'; give the path of a .pth, .pt or .safetensors file.")
    found = _reader(path)(path)
    declared = sum(math.prod(max(size, 1) for size in tensor.shape) for tensor in found.values())
    if declared > path.stat().st_size:
        raise InputError(f"'{path}' declares {declared} numbers but has fewer bytes; use another copy of it.")
    if not found:
        raise InputError(f"'{path}' holds no state dict; save model.state_dict() and nothing else.")
    return found


def _reader(path: Path) -> Callable[[Path], dict[str, Stored]]:
    """Which of the two formats the file has, by its content; by its name where it is too damaged to tell."""
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        return _read_safetensors
    if start[:1] == PICKLE or _has_member(path, "data.pkl"):
        if path.suffix == ".safetensors":  # by which PyTorch's own reader goes
            raise InputError(f"'{path}' is a file of PyTorch's; rename it to .pth.")
        return _read_torch
    kinds = [kind for magic, kind in FOREIGN.items() if start.startswith(magic)]
    kinds += [kind for member, kind in ARCHIVES.items() if _has_member(path, member)]
    if kinds or path.suffix not in SUFFIXES:
        raise InputError(
            f"'{path}' is {(*kinds, 'no checkpoint of a known kind')[0]}, and only state dicts of PyTorch (.pth, .pt) "
            "and .safetensors are read; write its arrays to a .safetensors file under PyTorch's keys and axes."
        )
    return _read_safetensors if path.suffix == ".safetensors" else _read_torch


def _has_member(path: Path, ending: str) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(ending) for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def write(path: str | Path, state: Mapping[str, np.ndarray]) -> None:
    """Write a state dict, whole or not at all.

    Args:
        path: .safetensors, .pth or .pt.
        state: as of `torch_layout.to_torch`.

    Raises:
        ValueError: for another ending, or where PyTorch is needed and is missing.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        content = safetensors.numpy.save(dict(state))
    elif path.suffix in (".pth", ".pt"):
        content = _torch_bytes(state)
    else:
        raise InputError(f"'{path}' does not end in .pth, .pt or .safetensors; choose one of these to write.")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, content)


def _torch_bytes(state: Mapping[str, np.ndarray]) -> bytes:
    torch, buffer = _torch(), io.BytesIO()
    torch.save({key: torch.from_numpy(array) for key, array in state.items()}, buffer)
    return buffer.getvalue()


def _read_safetensors(path: Path) -> dict[str, Stored]:
    try:
        file = safetensors.safe_open(path, framework="numpy")
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise InputError(f"'{path}' is not a whole .safetensors file ({error}); fetch it again.") from error
    unknown = {part.get_dtype() for part in slices.values()} - DTYPES.keys()
    if unknown:
        raise InputError(f"'{path}' holds numbers of type {', '.join(sorted(unknown))}; save it in float32.")

    def stored(key: str) -> Stored:
        dtype = np.dtype(DTYPES[slices[key].get_dtype()])
        return Stored(tuple(slices[key].get_shape()), dtype, lambda: file.get_tensor(key))

    return {key: stored(key) for key in slices}


def _read_torch(path: Path) -> dict[str, Stored]:
    torch = _torch()
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
        if zipped and any(entry.compress_type for entry in zipfile.ZipFile(path).infolist()):
            raise InputError("it is compressed")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # whatever a hostile file makes the readers raise
        raise InputError(
            f"'{path}' is not a whole PyTorch file of plain tensors ({type(error).__name__}), and nothing in it was "
            "run; save model.state_dict() again."
        ) from error
    content = _unwrapped(content)
    for key, value in content.items():
        if not (isinstance(key, str) and _dense(torch, value)):
            raise InputError(f"'{key}' in '{path}' is not a dense tensor of numbers; save model.state_dict() alone.")
    return {key: _stored(tensor) for key, tensor in content.items()}


def _unwrapped(content: object) -> dict:
    """The state dict in the innermost of the wrappers."""
    content = content if isinstance(content, dict) else {}
    inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), dict)), None)
    return content if inner is None else _unwrapped(inner)


def _dense(torch: Any, value: object) -> bool:
    if not isinstance(value, torch.Tensor) or value.is_nested or value.is_quantized:
        return False
    known = value.is_floating_point() or str(value.dtype).removeprefix("torch.") in INTEGERS
    return known and value.layout == torch.strided and value.device.type == "cpu"


def _stored(tensor: Any) -> Stored:
    floating = tensor.is_floating_point()
    dtype = np.dtype(np.float32 if floating else str(tensor.dtype).removeprefix("torch."))
    return Stored(tuple(tensor.shape), dtype, lambda: (tensor.detach().float() if floating else tensor).numpy())


def _torch() -> Any:
    """PyTorch, which is imported where it is needed.

    Raises:
        ValueError: where it is missing or too old.
    """
    try:
        import torch
    except ImportError as error:
        told = "PyTorch files need PyTorch: pip install 'ssdkd_jax[torch]', or use .safetensors instead."
        raise MissingError(told) from error
    version: Any = torch.__version__  # compares with tuples
    if version < TORCH:
        raise InputError(f"PyTorch {version} can be made to run code by a file; install 2.10 or newer.")
    return torch
