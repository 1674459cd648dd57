"""Engines of TensorRT and TensorRT-RTX from the traced ONNX graphs."""

from __future__ import annotations

import shutil
from pathlib import Path

from vqrae.calibration.layers import matrix_products, node_layers
from vqrae.calibration.lint import check_qdq
from vqrae.export.bundle_graphs import GraphRequest, WrittenGraphs
from vqrae.export.formats import EngineOptions, TensorRTOptions, TensorRTRTXOptions
from vqrae.export.onnx_graph import tracer_versions
from vqrae.export.verify import SOURCE_RUNTIME
from vqrae.runtimes.backends.tensorrt.api import EngineApi
from vqrae.runtimes.backends.tensorrt.builder import EngineBuilder, building_gpu
from vqrae.runtimes.backends.tensorrt.recipe import EngineRecipe
from vqrae.runtimes.backends.tensorrt.session import EngineSession
from vqrae.runtimes.backends.tensorrt.timings import TimingCache
from vqrae.runtimes.manifest import BatchLimits, GraphSpec, Precision
from vqrae.runtimes.registry import session_class

DYNAMIC_LIMITS = BatchLimits(least=1, best=8, most=32)
"""What a dynamic batch axis takes: an engine is tuned for one size, and has memory for the largest."""


def check_machine(runtime: str, options: EngineOptions) -> None:
    """What only the last steps of an export need: a GPU to build on, or what runs the ONNX graphs where there is none.

    Raises:
        RuntimeUnavailable: it is not here.
    """
    session = session_class(runtime)
    assert issubclass(session, EngineSession)  # noqa: S101 - by the table of formats
    api = session.api()
    if building_gpu(api) is None and options.include_onnx:
        session_class(SOURCE_RUNTIME)


def write_tensorrt(request: GraphRequest) -> WrittenGraphs:
    """The `GraphWriter` of the format `tensorrt`; needs a GPU, and builds for it."""
    from vqrae.runtimes.backends.tensorrt.tensorrt import API  # where it is not installed, the other format still is

    options = request.target.options
    assert isinstance(options, TensorRTOptions)  # noqa: S101 - by the table of formats
    recipe = EngineRecipe(
        workspace_mb=options.workspace_mb,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
    )
    timings = None if options.timing_cache is None else TimingCache(options.timing_cache)
    return _written(request, options, API, recipe, timings)


def write_tensorrt_rtx(request: GraphRequest) -> WrittenGraphs:
    """The `GraphWriter` of the format `tensorrt-rtx`; needs no GPU, and builds for several."""
    from vqrae.runtimes.backends.tensorrt.tensorrt_rtx import (
        API,  # where it is not installed, the other format still is
    )

    options = request.target.options
    assert isinstance(options, TensorRTRTXOptions)  # noqa: S101 - by the table of formats
    recipe = EngineRecipe(workspace_mb=options.workspace_mb, compute_capabilities=options.compute_capabilities)
    return _written(request, options, API, recipe)


def _written(
    request: GraphRequest,
    options: EngineOptions,
    api: EngineApi,
    recipe: EngineRecipe,
    timings: TimingCache | None = None,
) -> WrittenGraphs:
    target = request.target
    gpu = building_gpu(api)
    # Before the tracing, which takes longer to fail.
    EngineBuilder(api, recipe, Precision(name=target.precision), gpu=gpu)
    folder, traced, precision = request.onnx_graphs("symmetric")
    builder = EngineBuilder(api, recipe, precision, gpu=gpu, timings=timings)
    limits = target.batch.limits(DYNAMIC_LIMITS)
    graphs = {}
    for name, spec in traced.items():
        graphs[name] = _engine_spec(name, spec, limits, keep_onnx=options.include_onnx)
        check_qdq(folder / spec.file)
        builder.build(folder / spec.file, request.folder, graphs[name], _origins(folder / spec.file))
        if options.include_onnx:
            for file in (spec.file, *spec.extra_files):
                shutil.copyfile(folder / file, request.folder / file)
    return WrittenGraphs(graphs=graphs, precision=precision, runtime=builder.runtime(tracer_versions()))


def _origins(path: Path) -> dict[str, str]:
    """Which layer of the model each node came from; attention's two products by names of their own, as in plans."""
    return node_layers(path) | {product.node: product.layer for product in matrix_products(path)}


def _engine_spec(name: str, traced: GraphSpec, limits: BatchLimits | None, *, keep_onnx: bool) -> GraphSpec:
    """The traced graph's signature, with the engine's files."""
    return GraphSpec(
        file=f"{name}.engine",
        inputs=traced.inputs,
        outputs=traced.outputs,
        batch_limits=limits,
        source=traced.file if keep_onnx else None,
        source_extra_files=traced.extra_files if keep_onnx else (),
        layers=f"{name}.layers.json",
    )
