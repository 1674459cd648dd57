"""Kernels that TensorRT-RTX compiles when an engine is loaded, kept in a file: the next process loads it sooner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vqrae.runtimes.staging import write_output


class KernelCache:
    """The file. TensorRT-RTX takes from it what fits its version, driver and GPU, and compiles the rest."""

    def __init__(self, native: Any, path: Path) -> None:
        """Start from what the file holds; without one, from nothing.

        Raises:
            OSError: the file cannot be read.
        """
        self._native = native
        self._path = path
        self._content = path.read_bytes() if path.exists() else b""
        if self._content:
            native.deserialize(self._content)  # False if it was compiled elsewhere: it will be replaced

    def keep(self) -> None:
        """Write what is compiled by now, if it is more than what the file holds.

        Raises:
            StorageError: the file cannot be written.
        """
        content = bytes(self._native.serialize())
        if content != self._content:
            write_output(self._path, content, lock=False)  # several processes share it, and the last one wins
            self._content = content
