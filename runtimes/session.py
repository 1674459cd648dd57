"""What a backend has to give: a session, the thinnest layer over one loaded graph; checks and batching live above."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from vqrae.runtimes.closing import Closing
from vqrae.runtimes.manifest import GraphSpec


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """Where and how a graph is to run."""

    device: str = "cpu"
    """`cpu` or `cuda`, where the runtime has it; never replaced by another one silently."""
    threads: int | None = None
    """CPU threads within an operator; None leaves it to the runtime."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What really runs, asked of the runtime after loading."""

    runtime: str
    runtime_version: str
    device: str
    precision_note: str
    """Where the arithmetic's precision is decided."""


class Session(Closing):
    """One loaded graph. A context manager: leaving it releases the runtime's memory."""

    @classmethod
    @abstractmethod
    def open(cls, path: Path, graph: GraphSpec, options: SessionOptions) -> Self:
        """Load a graph.

        Args:
            path: the graph's file, already verified; its extra files lie where it expects them.
            graph: what the manifest says of it; the loaded graph must have the same signature.
            options: where and how to run.

        Raises:
            BundleError: the runtime refuses the file, or its signature differs from the manifest's.
            RuntimeUnavailable: the device is not there, or the runtime would fall back to another one.
            UsageError: the runtime knows no such device.
        """

    @abstractmethod
    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the graph; may be called from several threads.

        Args:
            feeds: one C-contiguous array per input of the graph, its dtype and shape checked by the caller.

        Returns:
            One array per output; the caller owns them, no later run writes to them.

        Raises:
            RuntimeUnavailable: the runtime failed, for example for want of memory.
        """

    @property
    @abstractmethod
    def execution(self) -> Execution:
        """What really runs."""
