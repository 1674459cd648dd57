"""ONNX graphs, for ONNX Runtime: each with its weights in a file beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vqrae.export.formats.format import Format
from vqrae.export.job import ExportJob, Written
from vqrae.runtimes.manifest import RuntimeInfo

if TYPE_CHECKING:
    from onnx import ModelProto

MAPPED_BYTES = 1024
"""From this size on a tensor lies beside the graph; a smaller one is not worth a page."""
PAGE = 4096
"""Bytes that each tensor's place in the file is a multiple of, as a memory map wants it."""


class Onnx(Format):
    """The graphs as they are, traced or with Q/DQ."""

    runtime = "onnxruntime"
    takes = "onnx"
    scheme = "asymmetric"
    batches = ("dynamic", "fixed")

    def write(self, job: ExportJob) -> Written:
        """See `Format`."""
        import onnx

        written, opset = {}, 0
        for name, spec in job.graphs.items():
            model = onnx.load(job.sources / spec.file)
            opset = next(entry.version for entry in model.opset_import if not entry.domain)
            beside = write_beside(model, job.folder / spec.file)
            written[name] = spec.model_copy(update={"extra_files": (beside,)})
        runtime = RuntimeInfo(name=self.runtime, built_with=job.made_with, options={"opset": opset})
        return Written(graphs=written, precision=job.precision, runtime=runtime)


def write_beside(model: ModelProto, path: Path) -> str:
    """Write a graph, and its weights in a file beside it, whose name is returned.

    ONNX Runtime maps such weights where they lie. Those of a single file it parses and copies first, which takes as
    long as the rest of loading, and its allocator keeps part of the space.
    """
    import onnx
    from onnx.external_data_helper import set_external_data

    beside, end = f"{path.name}.data", 0
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) >= MAPPED_BYTES:
            offset = -(-end // PAGE) * PAGE
            set_external_data(tensor, beside, offset=offset)
            end = offset + len(tensor.raw_data)
    path.with_name(beside).touch()  # onnx would make a file that only its owner may read
    onnx.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    return beside
