"""The bundle of ONNX graphs, for ONNX Runtime: each graph with its weights in a file beside it."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx.external_data_helper import set_external_data

from vqrae.export.bundle_graphs import GraphRequest, WrittenGraphs
from vqrae.export.onnx_graph import OPSET, tracer_versions
from vqrae.runtimes.manifest import RuntimeInfo

MAPPED_BYTES = 1024
"""From this size on a tensor lies beside the graph; a smaller one is not worth a page."""
PAGE = 4096
"""Bytes that each tensor's place in the file is a multiple of, as a memory map wants it."""


def write_onnx(request: GraphRequest) -> WrittenGraphs:
    """The `GraphWriter` of the format `onnx`: the graphs as they are, traced or with Q/DQ."""
    folder, graphs, precision = request.onnx_graphs()
    written = {}
    for name, spec in graphs.items():
        beside = write_beside(onnx.load(folder / spec.file), request.folder / spec.file)
        written[name] = spec.model_copy(update={"extra_files": (beside,)})
    runtime = RuntimeInfo(name="onnxruntime", built_with=tracer_versions(), options={"opset": OPSET})
    return WrittenGraphs(graphs=written, precision=precision, runtime=runtime)


def write_beside(model: onnx.ModelProto, path: Path) -> str:
    """Write a graph, and its weights in a file beside it, whose name is returned.

    ONNX Runtime maps such weights where they lie. Those of a single file it parses and copies first, which takes as
    long as the rest of loading, and its allocator keeps part of the space.
    """
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
