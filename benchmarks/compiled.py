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

import torch

from vqrae.benchmarks.candidates import Graph, Subject, sample_input
from vqrae.benchmarks.pytorch import PyTorchCandidate
from vqrae.model import VQRAE
from vqrae.runtimes.errors import RuntimeUnavailable

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

    def call(self, graph: Graph, batch: int) -> Callable[[], object]:
        """Compile the graph for this batch size, which may take a minute.

        Raises:
            RuntimeUnavailable: Inductor cannot compile it.
        """
        model, codebook_size = self._model, self._model.config.quantizer.codebook_size
        values = torch.from_numpy(sample_input(graph, batch, model.size, grid=model.grid, codebook_size=codebook_size))
        written = unwrap(VQRAE.decode_indices if graph == "decode" else VQRAE.encode_images)
        with _quiet():
            # imports Inductor
            compiled: Callable[..., object] = torch.compile(written, dynamic=False)
        arguments = (model, values) if graph == "decode" else (model, values, model.quantizer.codes().detach())

        def run() -> object:
            with torch.no_grad():  # Dynamo fails in the inference mode that the model's own methods are in
                return compiled(*arguments)

        with _quiet():
            try:
                run()
            except RuntimeError as error:  # Dynamo's and Inductor's own are RuntimeErrors
                raise RuntimeUnavailable("torch.compile", got=f"a failed compilation ({error})") from error
        return run

    def subject(self, graph: Graph) -> Subject:  # noqa: D102 - documented by Candidate
        return replace(super().subject(graph), kind="compiled", gate="unjudged")

    @property
    def launch(self) -> tuple[str, ...] | None:  # noqa: D102 - documented by Candidate
        return None  # how long a fresh process compiles depends on what its cache holds

    def close(self) -> None:  # noqa: D102 - documented by Candidate
        torch.compiler.reset()
        super().close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PyTorch's notes about its own deprecated calls."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*is deprecated", category=DeprecationWarning)
        yield
