"""Tensors of safetensors files: written with the operating system's refusals as our own, and judged when read."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vqrae.runtimes.errors import CheckpointError, StorageError
from vqrae.runtimes.staging import check_room

MOST_PARAMETERS = 10**11
"""Of a model that somebody else's configuration describes."""


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what safetensors raises when a file cannot be written, an error of its own, into a StorageError.

    Raises:
        OSError: the disk is full; whoever stages the output says how much was missing.
    """
    try:
        yield
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise StorageError(str(path), got=str(error), remedy="free some space or choose another disk") from error


def check_finite(name: str, tensor: Tensor) -> None:
    """Refuse weights that are no numbers: whatever is computed with them is none either, much later.

    Raises:
        CheckpointError: some are NaN or infinite.
    """
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        count = int((~torch.isfinite(tensor)).sum())
        got = f"{count:,} of {tensor.numel():,} values that are NaN or infinite"
        raise CheckpointError(
            name, got=got, expected="finite numbers", remedy="use a checkpoint from before it diverged"
        )


def check_held(source: str, parameters: int) -> None:
    """Compare what a configuration asks for with what there are weights for, before memory is taken for it.

    Args:
        source: a checkpoint's folder, or a hub's name.
        parameters: of the model that its configuration describes.

    Raises:
        CheckpointError: they are more than the files hold, or any published model has.
    """
    held, folder = MOST_PARAMETERS, Path(source)
    if folder.is_dir():  # a parameter takes a byte at least
        files = (path for kind in ("safetensors", "bin") for path in folder.glob(f"*.{kind}"))
        held = min(held, sum(path.stat().st_size for path in files))
    if parameters > held > 0:
        got, expected = f"a network of {parameters:,} parameters", f"at most {held:,}, as the weights hold"
        remedy = "a file may be cut: download it again"
        raise CheckpointError(f"{source} config.json", got=got, expected=expected, remedy=remedy)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors, detached, on the CPU and contiguous, and string metadata; tied ones are written under each name.

    Raises:
        StorageError: the disk has no room for the file, or it cannot be written.
        OSError: the disk is full all the same.
    """
    plain: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        made = tensor.detach().cpu().contiguous()
        plain[name] = made.clone() if made.data_ptr() in places else made  # the format has no tied tensors
        places.add(made.data_ptr())
    check_room(path, sum(tensor.numel() * tensor.element_size() for tensor in plain.values()))
    with storage_errors(path):
        save_file(plain, path, metadata=dict(metadata))
