"""The bundle of ONNX graphs, for ONNX Runtime."""

from __future__ import annotations

import shutil

from vqrae.export.bundle_graphs import GraphRequest, WrittenGraphs
from vqrae.export.onnx_graph import OPSET, tracer_versions
from vqrae.runtimes.manifest import RuntimeInfo


def write_onnx(request: GraphRequest) -> WrittenGraphs:
    """The `GraphWriter` of the format `onnx`: the graphs as they are, traced or with Q/DQ."""
    folder, graphs, precision = request.onnx_graphs()
    for spec in graphs.values():
        for file in (spec.file, *spec.extra_files):
            shutil.copyfile(folder / file, request.folder / file)
    runtime = RuntimeInfo(name="onnxruntime", built_with=tracer_versions(), options={"opset": OPSET})
    return WrittenGraphs(graphs=graphs, precision=precision, runtime=runtime)
