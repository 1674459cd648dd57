"""The naive export as a candidate: the model traced as it is written, nothing folded, on ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnxruntime
from torch import Tensor, nn

from vqrae.benchmarks.candidates import Candidate, Graph, Subject, sample_input
from vqrae.benchmarks.work import Work, counted_work
from vqrae.checkpoint import open_checkpoint
from vqrae.export.dtypes import GraphDtypes
from vqrae.export.graphs import graph_plans
from vqrae.export.onnx_graph import graph_from_plan
from vqrae.model import VQRAE
from vqrae.resize import resized
from vqrae.runtimes.backends.onnxruntime import OnnxRuntimeSession
from vqrae.runtimes.manifest import RuntimeInfo
from vqrae.runtimes.session import SessionOptions


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
        self._sessions: dict[str, tuple[OnnxRuntimeSession, Path]] = {}

    @property
    def image_size(self) -> tuple[int, int]:  # noqa: D102 - documented by Candidate
        return self._model.size

    def supports(self, graph: Graph, batch: int) -> bool:  # noqa: D102 - documented by Candidate
        return True

    def call(self, graph: Graph, batch: int) -> Callable[[], object]:  # noqa: D102 - documented by Candidate
        session, name = self._traced(graph, batch)
        model, codebook_size = self._model, self._model.config.quantizer.codebook_size
        feeds = {name: sample_input(graph, batch, model.size, grid=model.grid, codebook_size=codebook_size)}
        return lambda: session.run(feeds)

    def subject(self, graph: Graph) -> Subject:  # noqa: D102 - documented by Candidate
        _, file = self._sessions[graph]
        return Subject(
            kind="naive",
            bundle=self._model.config.name,
            runtime="onnxruntime",
            runtime_version=onnxruntime.__version__,
            precision="fp32",
            int8_share=None,
            device="cpu",
            size_mb=sum(part.stat().st_size for part in file.parent.iterdir()) / 1e6,
            token_agreement=None,
            excess_distortion=None,
            decode_psnr_db=None,
            gate="unjudged",
        )

    def work(self, graph: Graph, batch: int) -> Work | None:  # noqa: D102 - documented by Candidate
        _, file = self._sessions[graph]
        sample = sample_input(graph, batch, self._model.size, grid=self._model.grid, codebook_size=2)
        return counted_work(file, sample.shape)

    @property
    def launch(self) -> tuple[str, ...] | None:  # noqa: D102 - documented by Candidate
        return None

    def close(self) -> None:  # noqa: D102 - documented by Candidate
        for session, _ in self._sessions.values():
            session.close()
        self._sessions.clear()
        self._temporary.cleanup()

    def _traced(self, graph: Graph, batch: int) -> tuple[OnnxRuntimeSession, str]:
        """The graph at a fixed batch: the search, as written, cuts its scores by the batch's size."""
        folder = Path(self._temporary.name) / f"{graph}-{batch}"
        folder.mkdir(exist_ok=True)
        plan = next(plan for plan in graph_plans(self._model, split=False, batch=batch) if plan.name == graph)
        spec = graph_from_plan(replace(plan, make=_AS_WRITTEN[graph]), self._model, folder)
        runtime = RuntimeInfo(name="onnxruntime", built_with={})
        file = folder / spec.file
        session = OnnxRuntimeSession.open(file, spec, SessionOptions(threads=self.threads), runtime)
        if graph in self._sessions:
            self._sessions.pop(graph)[0].close()  # of another batch size, which was measured
        self._sessions[graph] = session, file
        return session, plan.input.name


class _Encode(nn.Module):
    def __init__(self, model: VQRAE, dtypes: GraphDtypes) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encode_images(images)


class _Decode(nn.Module):
    def __init__(self, model: VQRAE, dtypes: GraphDtypes) -> None:
        super().__init__()
        self.model = model

    def forward(self, indices: Tensor) -> Tensor:
        return self.model.decode_indices(indices)


_AS_WRITTEN: dict[str, type[_Encode | _Decode]] = {"encode": _Encode, "decode": _Decode}
