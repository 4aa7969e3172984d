"""A classifier as a file for other tools: a state dict of PyTorch's, or a StableHLO program that jax alone runs."""

from __future__ import annotations

from pathlib import Path

from ssdkd_jax.engine import files
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import stablehlo, torch_files, torch_layout
from ssdkd_jax.types import Inputs, Network, Variables

ENDINGS = (".stablehlo", ".safetensors", ".pth", ".pt")


def write(
    path: str | Path, name: str, network: Network, variables: Variables, inputs: Inputs, images: str = "uint8"
) -> str:
    """Write the file, whose ending chooses the format, and say what it takes.

    Args:
        name: of the model, in the zoo where PyTorch is to read it.
        images: what a .stablehlo file takes, one of `stablehlo.INPUTS`.

    Raises:
        InputError: for another ending, or where PyTorch is to read a network that it has no twin of.
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise InputError(f"'{path}' ends in none of {', '.join(ENDINGS)}; the ending chooses the format.")
    if path.suffix == ".stablehlo":
        program = stablehlo.serialize(network, variables, inputs.image_shape, images)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, program)
        return f"{images} images [B, {', '.join(map(str, inputs.image_shape))}]"
    as_torch = network.as_torch or (lambda weights: torch_layout.to_torch(weights, torch_layout.of(name)))
    torch_files.write(path, as_torch(variables))
    return f"(images - mean) / std with mean {list(inputs.mean)} and std {list(inputs.std)}"
