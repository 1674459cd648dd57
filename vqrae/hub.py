"""A file of a Hugging Face checkpoint: of a folder on this machine, or of the hub."""

from __future__ import annotations

import re
from pathlib import Path

from transformers.utils.hub import cached_file

from vqrae.runtimes.errors import CheckpointError

NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
"""What can be a model's name on the hub."""


def checkpoint_file(source: str, name: str) -> Path | None:
    """Where a file is, or None if the checkpoint has none of this name.

    Args:
        source: a folder, or a name on the hub. What exists on this machine is never looked for there.
        name: of the file.

    Raises:
        CheckpointError: there is no such checkpoint, or the hub cannot be reached.
    """
    return _found(source, name, required=False)


def required_file(source: str, name: str) -> Path:
    """As `checkpoint_file`; raises CheckpointError where there is none."""
    path = _found(source, name, required=True)
    if path is None:
        raise CheckpointError(source, got=f"no {name}", expected="a Hugging Face checkpoint")
    return path


def _found(source: str, name: str, *, required: bool) -> Path | None:
    folder = Path(source)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    if folder.exists() or not NAME.fullmatch(source):
        got = "a file" if folder.exists() else "no such folder"
        expected = "a checkpoint's folder, or a name on the hub such as google/siglip2-so400m-patch16-256"
        raise CheckpointError(source, got=got, expected=expected)
    try:
        found = cached_file(source, name, _raise_exceptions_for_missing_entries=required)
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        got = f"no such folder on this machine, and of the hub: {reason}"
        raise CheckpointError(source, got=got, expected="a Hugging Face checkpoint") from error
    return Path(found) if found else None
