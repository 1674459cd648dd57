"""The bundle of ONNX graphs, for ONNX Runtime."""

from __future__ import annotations

import shutil

from vqrae.export.bundle_graphs import GraphRequest, WrittenGraphs
from vqrae.export.onnx_graph import OPSET, traced_precision, tracer_versions
from vqrae.runtimes.manifest import RuntimeInfo


def write_onnx(request: GraphRequest) -> WrittenGraphs:
    """The `GraphWriter` of the format `onnx`: the traced graphs as they are."""
    target = request.target
    folder, graphs = request.onnx.graphs(target.precision, target.batch.axis, split=target.split)
    for spec in graphs.values():
        for file in (spec.file, *spec.extra_files):
            shutil.copyfile(folder / file, request.folder / file)
    runtime = RuntimeInfo(name="onnxruntime", built_with=tracer_versions(), options={"opset": OPSET})
    return WrittenGraphs(graphs=graphs, precision=traced_precision(target.precision), runtime=runtime)
