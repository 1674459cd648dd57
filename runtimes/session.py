"""What a backend has to give: a session, the thinnest layer over one loaded graph; checks and batching live above."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from vqrae.runtimes.closing import Closing
from vqrae.runtimes.errors import BundleError, RuntimeUnavailable, UsageError
from vqrae.runtimes.load_options import LoadOptions, Sealing
from vqrae.runtimes.manifest import GraphSpec, RuntimeInfo, TensorSpec
from vqrae.runtimes.sealed import Sealed


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What really runs, asked of the runtime after loading."""

    runtime: str
    runtime_version: str
    device: str
    precision: str
    """The arithmetic's precision, asked of the runtime where it can tell."""
    means: Literal["runtime", "evaluator"] = "runtime"
    """Who computes: see `manifest.Evidence`."""


class Session(Closing):
    """One loaded graph. A context manager: leaving it releases the runtime's memory."""

    plain_weights: ClassVar[bool] = False
    """Whether a graph's extra files hold nothing but constants: then they are hashed while the runtime packs them."""
    sealings: ClassVar[tuple[Sealing, ...]] = ("disk", "memory")
    """Where its graphs may be loaded from, the first choice first."""

    @classmethod
    @abstractmethod
    def open(cls, sealed: Sealed, graph: GraphSpec, options: LoadOptions, runtime: RuntimeInfo) -> Self:
        """Load a graph.

        Args:
            sealed: holds the graph's file or folder, already verified, and its extra files where it expects them,
                verified too but for plain weights; may be closed once the graph is loaded.
            graph: what the manifest says of it; the loaded graph must have the same signature.
            options: where and how to run.
            runtime: what the manifest says of the runtime: what the graph was built with and is tied to.

        Raises:
            BundleError: the runtime refuses the file, or its signature differs from the manifest's.
            RuntimeUnavailable: the device is not there, the runtime would fall back to another one, or the graph was
                built for another machine.
            UsageError: the runtime knows no such device.
        """

    @classmethod
    @abstractmethod
    def probe(cls) -> str:
        """Load and run a tiny graph of the runtime's own; says what ran, for `vqrae doctor`.

        Raises:
            RuntimeUnavailable: the runtime does not work on this machine.
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


def closed_session(runtime: str) -> UsageError:
    """What `run` raises after `close`, which may come from another thread."""
    return UsageError(f"{runtime} session", got="a run after close", expected="an open session")


def failed_run(runtime: str, error: Exception) -> RuntimeUnavailable:
    """What `run` raises when the runtime itself fails."""
    return RuntimeUnavailable(runtime, got=f"a failed run ({error})")


def check_doubled(runtime: str, doubled: NDArray[Any]) -> None:
    """Judge what a probe's graph made of [1, 2].

    Raises:
        RuntimeUnavailable: not [2, 4].
    """
    if not np.array_equal(doubled, [2, 4]):
        raise RuntimeUnavailable(runtime, got=f"[1, 2] doubled to {doubled}", expected="[2, 4]")


def refused_graph(path: Path, title: str, error: Exception) -> BundleError:
    """What `open` raises when the runtime, by its makers' name and version, refuses the file."""
    return BundleError(str(path), got=f"{title} refuses it ({error})", expected="a graph that it can load")


def check_edges(path: Path, kind: str, found: Iterable[str], wanted: Iterable[TensorSpec]) -> None:
    """Compare what the loaded graph takes or gives, in the words of `TensorSpec`, with the manifest.

    Raises:
        BundleError: they differ.
    """
    got, expected = ", ".join(found), ", ".join(map(str, wanted))
    if got != expected:
        remedy = "export it again"
        raise BundleError(f"{path} {kind}", got=got, expected=f"{expected}, as the manifest says", remedy=remedy)
