"""Write tensors to a safetensors file, with the operating system's refusals as our own one-line errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vqrae.runtimes.errors import StorageError


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors, detached, on the CPU and contiguous, and string metadata.

    Raises:
        StorageError: the file cannot be written; safetensors reports a full disk as an error of its own.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, path, metadata=dict(metadata))
    except SafetensorError as error:
        raise StorageError(str(path), got=str(error), remedy="free some space or choose another disk") from error
