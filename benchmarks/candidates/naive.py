"""The naive export as a candidate: the model traced as it is written, nothing folded, on ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray
from torch import Tensor, nn

from vqrae.benchmarks.candidates.candidate import (
    GRAPHS,
    Candidate,
    Graph,
    Subject,
    sample_input,
)
from vqrae.benchmarks.candidates.fidelity import measured_fidelity
from vqrae.benchmarks.candidates.work import Work, counted_work
from vqrae.checkpoint import open_checkpoint
from vqrae.export.form import Form
from vqrae.export.onnx_graph import graph_from_plan
from vqrae.export.tokenizers.vqrae import graph_plans
from vqrae.model import VQRAE
from vqrae.model.vqrae import resized
from vqrae.runtimes.backends.onnxruntime import OnnxRuntimeSession
from vqrae.runtimes.evidence import ParityFigures
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import GraphSpec, RuntimeInfo
from vqrae.runtimes.sealed import Sealed


class NaiveCandidate(Candidate):
    """What the model's exporter gives without the foldings of `export/`: what those are worth is told by this row."""

    def __init__(self, source: Path | str, *, threads: int, size: tuple[int, int] | None = None) -> None:
        """Load the model; its graphs are traced when they are called for, each at its own batch size.

        `source` and `size` are as for `PyTorchCandidate`.

        Raises:
            CheckpointError: the checkpoint is invalid, or there is none and no such preset.
        """
        self.threads = threads
        model = open_checkpoint(str(source)).model
        self._model = resized(model, size or model.size)
        self._temporary = tempfile.TemporaryDirectory(prefix="vqrae-naive-")
        self._traces: dict[Graph, _Trace] = {}
        self._figures: ParityFigures | None = None

    @property
    def image_size(self) -> tuple[int, int]:  # noqa: D102 - documented by Candidate
        return self._model.size

    def supports(self, graph: Graph, batch: int) -> bool:  # noqa: D102 - documented by Candidate
        return True

    def call(self, graph: Graph, batch: int) -> Callable[[], object]:  # noqa: D102 - documented by Candidate
        trace = self._traced(graph, batch)
        model, codebook_size = self._model, self._model.config.quantizer.codebook_size
        values = sample_input(graph, batch, model.size, grid=model.grid, codebook_size=codebook_size)
        return lambda: trace.run(values)

    def file(self, graph: Graph, batch: int) -> Path:
        """Where the traced graph lies, until this is closed."""
        return self._traced(graph, batch).file

    def subject(self, graph: Graph) -> Subject:
        """As documented by `Candidate`; the first time it compares the traced graphs with the model."""
        trace = self._traces[graph]
        if self._figures is None:
            encode, decode = (self._traced(name, trace.batch).run for name in GRAPHS)
            self._figures = measured_fidelity(self._model, encode, decode, batch=trace.batch)
        size_mb = sum(part.stat().st_size for part in trace.file.parent.iterdir()) / 1e6
        return Subject(
            kind="naive",
            bundle=self._model.config.name,
            runtime="onnxruntime",
            runtime_version=onnxruntime.__version__,
            precision="fp32",
            int8_share=None,
            device="cpu",
            size_mb=size_mb,
            weights_mb=size_mb,
            figures=self._figures,
            gate="unjudged",
        )

    def work(self, graph: Graph, batch: int) -> Work | None:  # noqa: D102 - documented by Candidate
        sample = sample_input(graph, batch, self._model.size, grid=self._model.grid, codebook_size=2)
        return counted_work(self._traces[graph].file, sample.shape)

    def launch(self, graph: Graph) -> tuple[str, ...] | None:  # noqa: D102 - documented by Candidate
        return str(self.file(graph, batch=1)), "--onnx"

    def close(self) -> None:  # noqa: D102 - documented by Candidate
        for trace in self._traces.values():
            trace.session.close()
        self._traces.clear()
        self._temporary.cleanup()

    def _traced(self, graph: Graph, batch: int) -> _Trace:
        """The graph at a fixed batch: the search, as written, cuts its scores by the batch's size."""
        if graph in self._traces and self._traces[graph].batch == batch:
            return self._traces[graph]
        folder = Path(self._temporary.name) / f"{graph}-{batch}"
        folder.mkdir(exist_ok=True)
        plan = next(plan for plan in graph_plans(self._model, split=False, batch=batch) if plan.name == graph)
        spec = graph_from_plan(replace(plan, module=partial(_AS_WRITTEN[graph], self._model)), folder)
        runtime = RuntimeInfo(name="onnxruntime", built_with={})
        file = folder / spec.file
        options = LoadOptions(threads=self.threads)
        session = OnnxRuntimeSession.open(Sealed.in_place(folder), spec, options, runtime)
        if graph in self._traces:
            self._traces.pop(graph).session.close()  # of another batch size, which was measured
        self._traces[graph] = _Trace(session, file, spec, batch)
        return self._traces[graph]


@dataclass(frozen=True)
class _Trace:
    """A graph that was traced, and is loaded."""

    session: OnnxRuntimeSession
    file: Path
    spec: GraphSpec
    batch: int

    def run(self, values: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """Its outputs, in the order of the signature."""
        outputs = self.session.run({self.spec.inputs[0].name: values})
        return tuple(outputs[output.name] for output in self.spec.outputs)


class _Encode(nn.Module):
    def __init__(self, model: VQRAE, form: Form) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encode_images(images)


class _Decode(nn.Module):
    def __init__(self, model: VQRAE, form: Form) -> None:
        super().__init__()
        self.model = model

    def forward(self, indices: Tensor) -> Tensor:
        return self.model.decode_indices(indices)


_AS_WRITTEN: dict[str, type[_Encode | _Decode]] = {"encode": _Encode, "decode": _Decode}
