"""Engines of TensorRT and TensorRT-RTX, from the ONNX graphs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, PositiveInt

from vqrae.export.formats.format import Format, FormatOptions
from vqrae.export.job import SOURCE_RUNTIME, ExportJob, Written
from vqrae.runtimes.manifest import BatchLimits, GraphSpec
from vqrae.runtimes.precision import Precision, PrecisionName
from vqrae.runtimes.registry import session_class

if TYPE_CHECKING:
    from vqrae.runtimes.backends.tensorrt.api import EngineApi
    from vqrae.runtimes.backends.tensorrt.builder import EngineBuilder
DYNAMIC_LIMITS = BatchLimits(least=1, best=8, most=32)
"""What a dynamic batch axis takes: an engine is tuned for one size, and has memory for the largest."""


class EngineOptions(FormatOptions):
    """Options that both share."""

    workspace_mb: PositiveInt | None = None
    """Most scratch memory that an engine may use, in MiB; the library's own limit if not given."""
    include_onnx: bool = True
    """Keep the ONNX graphs in the bundle, so that the engine can be rebuilt where it does not fit."""


class TensorRTOptions(EngineOptions):
    """Options of TensorRT engines."""

    version_compatible: bool = False
    """Load under later versions of the same major, somewhat slower."""
    hardware_compatible: Literal["none", "ampere-plus", "same-compute-capability"] = "none"
    """Load on other GPUs than the one it was built on, somewhat slower."""
    timing_cache: Path | None = None
    """File of measured kernels, read if it exists and written anew: a second build takes a fraction of the time."""


def _each_once(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


ComputeCapability = Literal["7.5", "8.0", "8.6", "8.9", "12.0", "12.1"]
"""Those that TensorRT-RTX 1.7 compiles for; the builder asks the installed version once more."""


class TensorRTRTXOptions(EngineOptions):
    """Options of TensorRT-RTX engines."""

    compute_capabilities: Annotated[tuple[ComputeCapability, ...], AfterValidator(_each_once)] = (
        "8.0",
        "8.6",
        "8.9",
        "12.0",
    )
    """GPUs to compile for, comma-separated: 7.5, 8.0, 8.6, 8.9, 12.0, 12.1."""


class EngineFormat(Format):
    """What both have in common: an engine for each graph, and the graphs that they can be rebuilt from."""

    takes = "onnx"
    scheme = "symmetric"
    batches = ("dynamic", "fixed", "range")
    options: ClassVar[type[EngineOptions]]

    def check_machine(self, options: FormatOptions, precision: PrecisionName) -> None:
        """See `Format`: a GPU to build on, or what runs the ONNX graphs where there is none."""
        from vqrae.runtimes.backends.tensorrt.builder import building_gpu

        wanted = self.options.model_validate(options.model_dump())
        self._builder(wanted, Precision(name=precision))
        if building_gpu(self._api()) is None and wanted.include_onnx:
            session_class(SOURCE_RUNTIME)

    def write(self, job: ExportJob) -> Written:
        """See `Format`."""
        from vqrae.calibration.lint import check_qdq

        options = self.options.model_validate(job.options)
        builder, limits, graphs = self._builder(options, job.precision), job.batch.limits(DYNAMIC_LIMITS), {}
        for name, spec in job.graphs.items():
            source = job.sources / spec.file
            graphs[name] = _engine_spec(name, spec, limits, keep_onnx=options.include_onnx)
            check_qdq(source)
            builder.build(source, job.folder, graphs[name], _origins(source))
            if options.include_onnx:
                for file in (spec.file, *spec.extra_files):
                    shutil.copyfile(job.sources / file, job.folder / file)
        return Written(graphs=graphs, precision=job.precision, runtime=builder.runtime(job.made_with))

    def _api(self) -> EngineApi:
        from vqrae.runtimes.backends.tensorrt.session import EngineSession

        session = session_class(self.runtime)
        if not issubclass(session, EngineSession):
            raise TypeError(f"{self.runtime} is no engine's runtime")
        return session.api()

    def _builder(self, options: EngineOptions, precision: Precision) -> EngineBuilder:
        from vqrae.runtimes.backends.tensorrt.builder import EngineBuilder, TimingCache, building_gpu
        from vqrae.runtimes.backends.tensorrt.recipe import EngineRecipe

        api = self._api()
        recipe = EngineRecipe.model_validate(options.model_dump(include=set(EngineRecipe.model_fields)))
        file = options.timing_cache if isinstance(options, TensorRTOptions) else None
        timings = None if file is None else TimingCache(file)
        return EngineBuilder(api, recipe, precision, gpu=building_gpu(api), timings=timings)


class TensorRT(EngineFormat):
    """Engines of TensorRT: needs a GPU, and builds for it."""

    runtime = "tensorrt"
    options = TensorRTOptions


class TensorRTRTX(EngineFormat):
    """Engines of TensorRT-RTX: needs no GPU, and builds for several."""

    runtime = "tensorrt-rtx"
    options = TensorRTRTXOptions


def _origins(path: Path) -> dict[str, str]:
    """Which layer of the model each node came from; attention's two products by names of their own, as in plans."""
    from vqrae.calibration.layers import matrix_products, node_layers

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
