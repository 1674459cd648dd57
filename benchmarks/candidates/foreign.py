"""Anyone's model file as a row: latency only, for what it computes is not known here."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrae.benchmarks.candidates.candidate import SEED, Candidate, Graph, Subject
from vqrae.benchmarks.candidates.work import Work, counted_work
from vqrae.runtimes.errors import BundleError, UsageError

Axes = tuple[int | None, ...]
"""Sizes of an input's axes; None is open."""
FLOATS = ("float16", "float32")


class ForeignCandidate(Candidate):
    """A file with one image input, loaded by its runtime; it stands among the rows of `encode`."""

    runtime: str
    """The runtime's name, as in `registry.RUNTIMES`."""

    def __init__(self, path: Path, *, threads: int, size: tuple[int, int] | None) -> None:
        """Load the file.

        Args:
            path: the file.
            threads: CPU threads.
            size: what open height and width axes are fed with, in pixels (H, W); None refuses them.

        Raises:
            BundleError: there is no such file, or the runtime refuses it.
            UsageError: its input is no image.
        """
        if not path.is_file():
            raise BundleError(str(path), got="no such file", expected=f"a file for {self.runtime}")
        self.path = path
        self.threads = threads
        self.input, self.dtype, axes = self.load()
        self.axes = image_axes(str(path), axes, size)
        if self.dtype not in (*FLOATS, "uint8"):
            expected = f"one of {', '.join((*FLOATS, 'uint8'))}"
            raise UsageError(f"{path} input {self.input}", got=self.dtype, expected=expected)
        self._size = size

    @abstractmethod
    def load(self) -> tuple[str, str, Axes]:
        """Load `self.path`; the name, dtype and axes of its only input.

        Raises:
            BundleError: the runtime refuses the file.
            UsageError: it has several inputs.
        """

    @abstractmethod
    def run(self, values: NDArray[Any]) -> object:
        """Run it once."""

    @property
    @abstractmethod
    def weights(self) -> Path | None:
        """Where weights lie that are not in the file itself; None where they always are."""

    @property
    @abstractmethod
    def version(self) -> str:
        """Of the runtime."""

    @property
    def device(self) -> str:
        """Where it runs."""
        return "cpu"

    @property
    def image_size(self) -> tuple[int, int]:  # noqa: D102 - documented by Candidate
        sides = self.axes[1:3] if self.axes[3] == 3 else self.axes[2:]
        return sides[0] or 0, sides[1] or 0  # none is open: `image_axes` filled them

    def supports(self, graph: Graph, batch: int) -> bool:  # noqa: D102 - documented by Candidate
        return graph == "encode" and self.axes[0] in (None, batch)

    def call(self, graph: Graph, batch: int) -> Callable[[], object]:  # noqa: D102 - documented by Candidate
        values = self._sample(batch)
        return lambda: self.run(values)

    def subject(self, graph: Graph) -> Subject:  # noqa: D102 - documented by Candidate
        height, width = self.image_size
        other = self._size is not None and (height, width) != self._size
        return Subject(
            kind="foreign",
            bundle=f"{self.path.name} at {height}x{width}" if other else self.path.name,
            runtime=self.runtime,
            runtime_version=self.version,
            precision=None,
            int8_share=None,
            device=self.device,
            size_mb=sum(file.stat().st_size for file in (self.path, self.weights) if file and file.is_file()) / 1e6,
            gate="unjudged",
        )

    def work(self, graph: Graph, batch: int) -> Work | None:  # noqa: D102 - documented by Candidate
        return counted_work(self.path, self._sample(batch).shape)

    def launch(self, graph: Graph) -> tuple[str, ...] | None:  # noqa: D102 - documented by Candidate
        return None

    def _sample(self, batch: int) -> NDArray[Any]:
        shape = (batch, *(side for side in self.axes[1:] if side is not None))
        generator = np.random.default_rng(SEED)
        if self.dtype == "uint8":
            return generator.integers(0, 256, shape, np.uint8)
        return generator.standard_normal(shape, np.float32).astype(self.dtype)


def image_axes(subject: str, axes: Axes, size: tuple[int, int] | None) -> Axes:
    """An input's axes, with all but the batch filled: 3 channels, last where the last axis is 3, else second; H and W.

    Raises:
        UsageError: it is no image's input, or an axis is open and there is nothing to fill it with.
    """
    if len(axes) != 4 or (axes[3] != 3 and axes[1] not in (None, 3)):
        expected = "an image: four axes, of which the second or the last is 3"
        raise UsageError(f"{subject} input", got=f"axes {axes}", expected=expected)
    if size is None:
        if None in axes[1:]:
            expected = "fixed axes, but for the batch, where no bundle or checkpoint gives the image's size"
            raise UsageError(f"{subject} input", got=f"axes {axes}", expected=expected)
        return axes
    filling = (None, *size, 3) if axes[3] == 3 else (None, 3, *size)
    return tuple(fill if own is None else own for own, fill in zip(axes, filling, strict=True))
