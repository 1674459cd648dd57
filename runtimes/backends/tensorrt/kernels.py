"""Kernels that TensorRT-RTX compiles when an engine is loaded, kept in a file: the next process loads it sooner."""

from __future__ import annotations

from typing import Any

from vqrae.runtimes.compile_cache import CompileCache


class KernelCache:
    """The file. TensorRT-RTX takes from it what fits its version, driver and GPU, and compiles the rest."""

    def __init__(self, native: Any, kept: CompileCache, name: str) -> None:
        """Start from what is kept under the name; if there is nothing, from that.

        Raises:
            StorageError: the file cannot be read.
        """
        self._native = native
        self._kept, self._name = kept, name
        self._content = kept.read(name) or b""
        if self._content:
            native.deserialize(self._content)  # False if it was compiled elsewhere: it will be replaced

    def keep(self) -> None:
        """Write what is compiled by now, if it is more than what the file holds.

        Raises:
            StorageError: the file cannot be written.
        """
        content = bytes(self._native.serialize())
        if content != self._content:
            self._kept.keep(self._name, content)
            self._content = content
