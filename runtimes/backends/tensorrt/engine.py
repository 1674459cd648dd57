"""An engine in a GPU's memory, from which contexts are made to run it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqrae.runtimes.backends.tensorrt.api import EngineApi, described_tensor
from vqrae.runtimes.backends.tensorrt.cuda import Gpu
from vqrae.runtimes.backends.tensorrt.layers import inspected_layers, product_counts
from vqrae.runtimes.compile_cache import CompileCache
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.manifest import GraphSpec
from vqrae.runtimes.session import check_edges, refused_graph


class KernelCache:
    """What TensorRT-RTX compiles when an engine is loaded, kept in a file: the next process loads it sooner.

    It takes from the file what fits its version, driver and GPU, and compiles the rest.
    """

    def __init__(self, native: Any, kept: CompileCache, name: str) -> None:
        """Start from what is kept under the name; if there is nothing, from that.

        Raises:
            StorageError: the file cannot be read.
        """
        self._native = native
        self._kept, self._name = kept, name
        self._content = kept.read(name) or b""
        if self._content:
            native.deserialize(self._content)  # False if it was compiled elsewhere: it will be replaced

    def keep(self) -> None:
        """Write what is compiled by now, if it is more than what the file holds.

        Raises:
            StorageError: the file cannot be written.
        """
        content = bytes(self._native.serialize())
        if content != self._content:
            self._kept.keep(self._name, content)
            self._content = content


@dataclass(frozen=True)
class EngineEdge:
    """One input or output of an engine."""

    name: str
    dtype: str
    """As the framework names it, such as `HALF`."""
    shape: tuple[int, ...]
    """A dynamic axis is negative."""


class LoadedEngine:
    """Made on the selected GPU. Keeps alive what contexts refer to."""

    def __init__(self, api: EngineApi, plan: bytes, gpu: Gpu, cache: Path | None, *, host_code: bool) -> None:
        """Load an engine.

        Args:
            api: the framework that built it.
            plan: what it built.
            gpu: the selected GPU.
            cache: folder to keep compiled kernels in, for a framework that compiles on load.
            host_code: let the framework run code for the CPU that the engine brings.

        Raises:
            RuntimeError: the framework refuses it.
        """
        self._api = api
        api.log.clear()
        self._runtime = api.trt.Runtime(api.log.native)
        self._runtime.engine_host_code_allowed = host_code
        self._native = self._runtime.deserialize_cuda_engine(plan)
        if self._native is None:
            raise RuntimeError(api.log.text)
        self._kernels: KernelCache | None = None
        self._config: Any = None
        if api.portable:
            self._config = self._native.create_runtime_config()
            self._configure(plan, gpu, cache)

    def context(self) -> Any:
        """A context of its own for each call that goes on at once.

        Raises:
            RuntimeUnavailable: there is not enough memory, or a kernel cannot be compiled.
        """
        self._api.log.clear()
        arguments = () if self._config is None else (self._config,)
        context = self._native.create_execution_context(*arguments)
        if context is None:
            raise RuntimeUnavailable(self._api.name, got=f"no execution context ({self._api.log.text})")
        return context

    def edges(self) -> tuple[list[EngineEdge], list[EngineEdge]]:
        """Its inputs and its outputs, by name."""
        native, modes = self._native, self._api.trt.TensorIOMode
        names = sorted(native.get_tensor_name(number) for number in range(native.num_io_tensors))
        found: dict[Any, list[EngineEdge]] = {modes.INPUT: [], modes.OUTPUT: []}
        for name in names:
            edge = EngineEdge(name, native.get_tensor_dtype(name).name, tuple(native.get_tensor_shape(name)))
            found[native.get_tensor_mode(name)].append(edge)
        return found[modes.INPUT], found[modes.OUTPUT]

    def check_edges(self, path: Path, graph: GraphSpec) -> None:
        """Compare its inputs, outputs and batch sizes with the manifest.

        Raises:
            BundleError: they differ.
        """
        inputs, outputs = self.edges()
        for kind, edges, wanted in (("inputs", inputs, graph.inputs), ("outputs", outputs, graph.outputs)):
            found = [described_tensor(edge.name, edge.dtype, edge.shape) for edge in edges]
            check_edges(path, kind, found, sorted(wanted, key=lambda spec: spec.name))

    def precision(self) -> str:
        """What its matrix products are computed in, such as `FLOAT ×1, HALF ×19`, as far as its inspector tells."""
        counts = product_counts(inspected_layers(self._api.trt, self._native, {}))
        return ", ".join(f"{kind} ×{count}" for kind, count in sorted(counts.items())) or "not told by its inspector"

    def keep_kernels(self) -> None:
        """Write the kernels that were compiled by now, where a folder was given for them.

        Raises:
            StorageError: the file cannot be written.
        """
        if self._kernels is not None:
            self._kernels.keep()

    def _configure(self, plan: bytes, gpu: Gpu, cache: Path | None) -> None:
        """Set how TensorRT-RTX compiles."""
        strategies = self._api.trt.DynamicShapesKernelSpecializationStrategy
        # By default a kernel is replaced while calls go on, and near ties may then turn into another token.
        self._config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        if cache is not None:
            native = self._config.create_runtime_cache()
            name = f"{hashlib.sha256(plan).hexdigest()[:16]}-{self._api.version}-{gpu.compute_capability}.kernels"
            self._kernels = KernelCache(native, CompileCache(cache), name)
            self._config.set_runtime_cache(native)


def load_engine(
    api: EngineApi, path: Path, plan: bytes, gpu: Gpu, cache: Path | None, *, host_code: bool
) -> LoadedEngine:
    """Load an engine, which errors call `path`; the other arguments are those of `LoadedEngine`.

    Raises:
        BundleError: the framework refuses it.
    """
    try:
        return LoadedEngine(api, plan, gpu, cache, host_code=host_code)
    except RuntimeError as error:
        raise refused_graph(path, f"{api.title} {api.version}", error) from error
