"""Kernels that TensorRT has measured, kept in a file between builds: a second build takes a fraction of the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.staging import write_output


class TimingCache:
    """The file. TensorRT-RTX measures nothing when it builds, and has no such thing."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def use(self, config: Any) -> None:
        """Let a build start from what is measured already, if anything is.

        Raises:
            RuntimeUnavailable: it was measured on another GPU or by another version.
            OSError: the file cannot be read.
        """
        measured = self._path.read_bytes() if self._path.exists() else b""
        if not config.set_timing_cache(config.create_timing_cache(measured), ignore_mismatch=False):
            got, remedy = "measurements of another GPU or version", "delete the file, or name another one"
            raise RuntimeUnavailable(f"timing cache {self._path}", got=got, remedy=remedy)

    def keep(self, config: Any) -> None:
        """Write what the build has measured, and what was measured before.

        Raises:
            StorageError: the file cannot be written.
        """
        measured = bytes(config.get_timing_cache().serialize())
        write_output(self._path, measured, lock=False)  # several builds share it, and the last one wins
