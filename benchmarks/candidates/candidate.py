"""What can be measured: a candidate is named, gives calls to time, and can be launched in a fresh process.

Light to import, because the fresh process that measures start-up imports it.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vqrae.benchmarks.candidates.work import COUNTERS, Work, counted_work
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.closing import Closing
from vqrae.runtimes.evidence import GateVerdict, ParityFigures
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import Manifest
from vqrae.runtimes.precision import PrecisionName
from vqrae.runtimes.registry import RUNTIMES
from vqrae.runtimes.session import Execution
from vqrae.runtimes.tokenizer import Tokenizer

Graph = Literal["encode", "decode"]
Kind = Literal["reference", "compiled", "naive", "bundle", "foreign"]
"""PyTorch eager; `torch.compile`; the model traced without foldings; a bundle; anyone's file."""
GRAPHS: tuple[Graph, ...] = ("encode", "decode")
SEED = 0
FIDELITY = ("token_agreement", "excess_distortion", "decode_psnr_db")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The columns of a row that do not depend on the clock; see `BenchRow` for their meaning."""

    kind: Kind = "bundle"
    bundle: str
    runtime: str
    runtime_version: str | None
    precision: PrecisionName | None
    int8_share: float | None
    device: str | None
    size_mb: float
    weights_mb: float | None = None
    figures: ParityFigures | None = None
    """How faithful it is; a row tells `FIDELITY` of them."""
    gate: GateVerdict | Literal["reference", "unjudged"]

    def columns(self) -> dict[str, Any]:
        """Its fields, by their names in a `BenchRow`."""
        columns = dict(vars(self))
        figures = columns.pop("figures")
        return columns | {name: getattr(figures, name, None) for name in FIDELITY}


def runtime_title(runtime: str) -> str:
    """The name that a runtime's makers give it: `ONNX Runtime`."""
    return "PyTorch" if runtime == "pytorch" else RUNTIMES[runtime].title if runtime in RUNTIMES else runtime


class Candidate(Closing):
    """Something that encodes and decodes. A context manager: leaving it releases its memory."""

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """Height and width of its images, in pixels."""

    @abstractmethod
    def supports(self, graph: Graph, batch: int) -> bool:
        """Whether it has the graph, and the graph takes this many images at once."""

    @abstractmethod
    def call(self, graph: Graph, batch: int) -> Callable[[], object]:
        """Load the graph and prepare its input; the result runs it once, from arrays to arrays.

        Raises:
            RuntimeUnavailable: the runtime cannot run it on this machine.
        """

    @abstractmethod
    def subject(self, graph: Graph) -> Subject:
        """Who it is and what really runs the graph, which must be loaded."""

    def work(self, graph: Graph, batch: int) -> Work | None:
        """What one call has to do, counted in the graph itself; None where it cannot be counted.

        Raises:
            RuntimeUnavailable: what counts it is not installed.
        """
        return None

    @abstractmethod
    def launch(self, graph: Graph) -> tuple[str, ...] | None:
        """Arguments with which `footprint.py` opens the same in a fresh process; None if that would say nothing."""


class BundleCandidate(Candidate):
    """A bundle, measured at its runtime's bare session: what a client adds around it is the same for every runtime."""

    def __init__(self, path: Path | str, options: LoadOptions) -> None:
        """Verify a bundle; its graphs load when they are called for.

        Raises:
            BundleError: the bundle is invalid.
            RuntimeUnavailable: its runtime is not installed.
        """
        self._options = options
        self._tokenizer = Tokenizer.open(path, options)

    @property
    def image_size(self) -> tuple[int, int]:  # noqa: D102 - documented by Candidate
        return self._tokenizer.image_size

    def supports(self, graph: Graph, batch: int) -> bool:  # noqa: D102 - documented by Candidate
        graphs = self._tokenizer.manifest.graphs
        if graph not in graphs:
            return False
        spec = graphs[graph]
        limits = spec.batch_limits
        return spec.fixed_batch in (None, batch) and (limits is None or limits.fitting(batch) == batch)

    def call(self, graph: Graph, batch: int) -> Callable[[], object]:  # noqa: D102 - documented by Candidate
        tokenizer = self._tokenizer
        session = tokenizer.session(graph)
        values = sample_input(
            graph, batch, tokenizer.image_size, grid=tokenizer.grid, codebook_size=tokenizer.codebook_size
        )
        feeds = {tokenizer.manifest.graphs[graph].inputs[0].name: values}
        return lambda: session.run(feeds)

    @property
    def tokenizer(self) -> Tokenizer:
        """The client of its sessions, as users hold it."""
        return self._tokenizer

    def streaming(self, options: LoadOptions) -> Tokenizer:
        """Another client of the same bundle, for throughput: it may run several batches at once."""
        return Tokenizer.from_bundle(self._tokenizer.bundle, options)

    def execution(self, graph: str) -> Execution:
        """What really runs a graph; loads it."""
        return self._tokenizer.session(graph).execution

    def subject(self, graph: Graph) -> Subject:  # noqa: D102 - documented by Candidate
        bundle = self._tokenizer.bundle
        return replace(bundle_subject(bundle, self.execution(graph)), weights_mb=bundle.bytes_of(graph) / 1e6)

    def work(self, graph: Graph, batch: int) -> Work | None:  # noqa: D102 - documented by Candidate
        spec = self._tokenizer.manifest.graphs[graph]
        shape = (batch, *(axis for axis in spec.inputs[0].shape[1:] if isinstance(axis, int)))
        file = next((name for name in (spec.file, spec.source) if name and Path(name).suffix in COUNTERS), None)
        return counted_work(self._tokenizer.bundle.path / file, shape) if file else None

    def launch(self, graph: Graph) -> tuple[str, ...] | None:  # noqa: D102 - documented by Candidate
        given = {name: value for name, value in asdict(self._options).items() if value is not None}
        return (str(self._tokenizer.bundle.path), "--load", json.dumps(given, default=str))

    def close(self) -> None:  # noqa: D102 - documented by Candidate
        self._tokenizer.close()


def bundle_subject(bundle: Bundle, execution: Execution | None) -> Subject:
    """A bundle's columns; `execution` is what runs it, None if nothing does."""
    manifest: Manifest = bundle.manifest
    return Subject(
        bundle=manifest.name,
        runtime=manifest.runtime.name,
        runtime_version=execution.runtime_version if execution else None,
        precision=manifest.precision.name,
        int8_share=manifest.precision.int8_share,
        device=execution.device if execution else None,
        size_mb=bundle.size_bytes / 1e6,
        figures=manifest.evidence.figures,
        gate=manifest.evidence.gate,
    )


def sample_input(
    graph: Graph, batch: int, image_size: tuple[int, int], *, grid: tuple[int, int], codebook_size: int
) -> NDArray[Any]:
    """Seeded random input: images uint8 (B, H, W, 3), or indices int32 (B, h, w). Dense graphs take as long for any."""
    generator = np.random.default_rng(SEED)
    if graph == "encode":
        return generator.integers(0, 256, (batch, *image_size, 3), np.uint8)
    return generator.integers(0, codebook_size, (batch, *grid), np.int32)
