"""`torch.compile` as a candidate: the same model as PyTorch's row, compiled by Inductor."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from inspect import unwrap
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from vqrae.benchmarks.candidates import GRAPHS, Graph, Subject, fidelity_columns, sample_input
from vqrae.benchmarks.fidelity import Arrays, measured_fidelity
from vqrae.benchmarks.pytorch import PyTorchCandidate
from vqrae.model import VQRAE
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.manifest import ParityFigures

COMPILERS = ("g++", "clang++", "c++")


class CompiledCandidate(PyTorchCandidate):
    """A checkpoint folder or a preset's name, as for `PyTorchCandidate`."""

    def __init__(self, source: Path | str, *, threads: int, size: tuple[int, int] | None = None) -> None:
        """Load the model; it is compiled when its graphs are called for.

        Raises:
            RuntimeUnavailable: there is no C++ compiler.
            CheckpointError: the checkpoint is invalid, or there is none and no such preset.
        """
        if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), *COMPILERS) if name):
            remedy = "install one, or set CXX"
            raise RuntimeUnavailable("torch.compile", got="no C++ compiler", expected="g++ or clang++", remedy=remedy)
        super().__init__(source, threads=threads, size=size)
        self._batch = 1
        self._figures: ParityFigures | None = None

    def call(self, graph: Graph, batch: int) -> Callable[[], object]:
        """Compile the graph for this batch size, which may take a minute.

        Raises:
            RuntimeUnavailable: Inductor cannot compile it.
        """
        model, codebook_size = self._model, self._model.config.quantizer.codebook_size
        values = torch.from_numpy(sample_input(graph, batch, model.size, grid=model.grid, codebook_size=codebook_size))
        run = self._compiled(graph)
        _first_run(run, values)
        self._batch = batch
        return lambda: run(values)

    def subject(self, graph: Graph) -> Subject:
        """As documented by `Candidate`; the first time it compares what was compiled with the model as it is."""
        if self._figures is None:
            encode, decode = (self._on_arrays(graph) for graph in GRAPHS)
            self._figures = measured_fidelity(self._model, encode, decode, batch=self._batch)
        columns = fidelity_columns(self._figures)
        return replace(super().subject(graph), kind="compiled", gate="unjudged", **columns)

    def launch(self, graph: Graph) -> tuple[str, ...] | None:  # noqa: D102 - documented by Candidate
        return None  # how long a fresh process compiles depends on what its cache holds

    def close(self) -> None:  # noqa: D102 - documented by Candidate
        torch.compiler.reset()
        super().close()

    def _compiled(self, graph: Graph) -> Callable[[torch.Tensor], Any]:
        """The graph, which is compiled for each shape of its input when it first comes."""
        model = self._model
        written = unwrap(VQRAE.decode_indices if graph == "decode" else VQRAE.encode_images)
        with quiet_compiler():
            compiled: Callable[..., Any] = torch.compile(written, dynamic=False)  # imports Inductor
        codes = () if graph == "decode" else (model.quantizer.codes().detach(),)

        def run(values: torch.Tensor) -> Any:
            with torch.no_grad():  # Dynamo fails in the inference mode that the model's own methods are in
                return compiled(model, values, *codes)

        return run

    def _on_arrays(self, graph: Graph) -> Callable[[NDArray[Any]], Arrays]:
        run = self._compiled(graph)

        def run_on_arrays(values: NDArray[Any]) -> Arrays:
            found = _first_run(run, torch.from_numpy(values))
            return tuple(part.numpy() for part in (found if isinstance(found, tuple) else (found,)))

        return run_on_arrays


def _first_run(run: Callable[[torch.Tensor], Any], values: torch.Tensor) -> Any:
    """What it gives, where it may have to be compiled.

    Raises:
        RuntimeUnavailable: Inductor cannot compile it.
    """
    with quiet_compiler():
        try:
            return run(values)
        except RuntimeError as error:  # Dynamo's and Inductor's own are RuntimeErrors
            raise RuntimeUnavailable("torch.compile", got=f"a failed compilation ({error})") from error


@contextmanager
def quiet_compiler() -> Iterator[None]:
    """Without PyTorch's notes about its own deprecated calls."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*is deprecated", category=DeprecationWarning)
        yield
