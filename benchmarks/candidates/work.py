"""What a graph has to do: the same whatever runs it, so that how near a runtime comes to the machine can be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

COUNTERS = {
    ".onnx": "vqrae.benchmarks.candidates.onnx_work:onnx_work",
    ".xml": "vqrae.benchmarks.candidates.ir_work:ir_work",
}
"""Suffix -> what counts the arithmetic of such graphs; it brings the library that reads them."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One call of a graph."""

    float_macs: int
    """Multiply-adds in floating point."""
    int8_macs: int
    """Multiply-adds in INT8."""
    bytes_moved: int
    """The least traffic with memory: weights and inputs read once, outputs written once."""

    @property
    def macs(self) -> int:
        """All multiply-adds; an operation of a processor's peak is half of one."""
        return self.float_macs + self.int8_macs


Counter = Callable[[Path, Sequence[int]], Work | None]


def counted_work(path: Path, shape: Sequence[int]) -> Work | None:
    """The work of a file with one input of this shape, by its suffix, one of `COUNTERS`; None if it cannot be told.

    Raises:
        RuntimeUnavailable: what reads the file is not installed.
    """
    module, name = COUNTERS[path.suffix].split(":")
    count: Counter = getattr(import_module(module), name)
    return count(path, shape)
