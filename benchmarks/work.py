"""What a graph has to do: the same whatever runs it, so that how near a runtime comes to the machine can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

COUNTED = (".onnx", ".xml")
"""Suffixes of the graphs whose arithmetic can be counted."""


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


def counted_work(path: Path, shape: Sequence[int]) -> Work | None:
    """The work of a file with one input of this shape, by its suffix, one of `COUNTED`; None if it cannot be told.

    Raises:
        RuntimeUnavailable: what reads the file is not installed.
    """
    if path.suffix == ".xml":
        from vqrae.benchmarks.ir_arithmetic import ir_work  # brings openvino, which runs such files

        return ir_work(path, shape)
    from vqrae.benchmarks.arithmetic import onnx_work

    return onnx_work(path, shape)
