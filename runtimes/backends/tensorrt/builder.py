"""Engines from ONNX graphs, by TensorRT or TensorRT-RTX. Torch-free: a device rebuilds its engines without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqrae.runtimes.backends.tensorrt.api import EngineApi, described_tensor
from vqrae.runtimes.backends.tensorrt.cuda import DEFAULT_DEVICE, Gpu, all_gpus, gpu_named
from vqrae.runtimes.backends.tensorrt.layers import (
    EngineLayer,
    LayerTable,
    check_products,
    described_node,
    inspected_layers,
    network_layers,
)
from vqrae.runtimes.backends.tensorrt.recipe import EngineRecipe
from vqrae.runtimes.backends.tensorrt.ties import this_platform
from vqrae.runtimes.errors import BundleError, RuntimeUnavailable, unknown_name
from vqrae.runtimes.manifest import BatchLimits, GraphSpec, RuntimeInfo, Versions
from vqrae.runtimes.precision import Precision
from vqrae.runtimes.session import check_edges, refused_graph
from vqrae.runtimes.staging import write_output


class TimingCache:
    """Kernels that TensorRT has measured, kept in a file: a second build takes a fraction of the time.

    TensorRT-RTX measures nothing when it builds, and has no such thing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def use(self, config: Any) -> None:
        """Let a build start from what is measured already, if anything is.

        Raises:
            RuntimeUnavailable: it was measured on another GPU or by another version.
            OSError: the file cannot be read.
        """
        measured = self._path.read_bytes() if self._path.exists() else b""
        if not config.set_timing_cache(config.create_timing_cache(measured), ignore_mismatch=False):
            got, remedy = "measurements of another GPU or version", "delete the file, or name another one"
            raise RuntimeUnavailable(f"timing cache {self._path}", got=got, remedy=remedy)

    def keep(self, config: Any) -> None:
        """Write what the build has measured, and what was measured before.

        Raises:
            StorageError: the file cannot be written.
        """
        measured = bytes(config.get_timing_cache().serialize())
        write_output(self._path, measured, lock=False)  # several builds share it, and the last one wins


class EngineBuilder:
    """Builds the engines of one bundle. The precision is the graphs' own: it is checked here, not chosen."""

    def __init__(
        self,
        api: EngineApi,
        recipe: EngineRecipe,
        precision: Precision,
        *,
        gpu: Gpu | None,
        timings: TimingCache | None = None,
    ) -> None:
        """`gpu` is what `building_gpu` gives; `timings` is for engines that are not portable.

        Raises:
            UsageError: a compute capability that the framework does not build for.
        """
        self._api = api
        self._recipe = recipe
        self._precision = precision
        self._timings = timings
        self._gpu = gpu
        for capability in recipe.compute_capabilities:
            if capability not in api.compute_capabilities:
                raise unknown_name(f"compute capability for {api.title}", capability, api.compute_capabilities)

    def runtime(self, built_with: Versions) -> RuntimeInfo:
        """What a manifest says of the engines; `built_with` names what made the graphs that they are built from."""
        recipe, version, gpu = self._recipe, self._api.version, self._gpu
        if self._api.portable or gpu is None:
            ties = recipe.portable_ties(version)
            hardware = f"compute capability {', '.join(ties.compute_capabilities)}"
        else:
            ties = recipe.local_ties(version, gpu)
            hardware = f"{gpu.name}, {this_platform()}"
        return RuntimeInfo(
            name=self._api.name,
            built_with={**built_with, self._api.name: version},
            options=recipe.options(),
            hardware=hardware,
            engine=ties,
        )

    def build(self, source: Path, folder: Path, graph: GraphSpec, origins: Mapping[str, str]) -> None:
        """Write one engine, and the table of its layers.

        Args:
            source: the ONNX graph, its external data beside it.
            folder: the bundle's.
            graph: names the files to write, the signature that the ONNX graph must have, and the batch sizes that the
                engine is to take.
            origins: which layer of the model a node of the graph came from, as far as is known.

        Raises:
            BundleError: the source is no ONNX graph, or has another signature.
            RuntimeUnavailable: the framework lacks an operator, named with its node and layer, or fails to build; or
                what it built has another precision.
            OSError: a file cannot be written.
        """
        trt, log = self._api.trt, self._api.log
        log.clear()
        if self._gpu is not None:
            self._gpu.select()
        builder = trt.Builder(log.native)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log.native)  # owns the weights until the engine is built
        if not parser.parse_from_file(str(source)):
            raise self._refusal(source, parser, origins)
        _check_network(source, network, graph)
        layers = network_layers(network, origins)
        check_products(source.name, self._precision, layers)
        config = self._config(builder, network, graph.batch_limits)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise self._failure(source, origins)
        (folder / graph.file).write_bytes(plan)
        if self._timings is not None:
            self._timings.keep(config)
        table = LayerTable(network=layers, engine=self._inspected(source, plan, origins))
        if graph.layers is not None:
            (folder / graph.layers).write_text(table.to_json(), encoding="utf-8")

    def _config(self, builder: Any, network: Any, limits: BatchLimits | None) -> Any:
        trt, recipe = self._api.trt, self._recipe
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default: FP32 and the kept scores would multiply 10 bits
        if recipe.workspace_mb is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, recipe.workspace_mb * 2**20)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if limits is not None:
            config.add_optimization_profile(_profile(builder, network.get_input(0), limits))
        if self._api.portable:
            config.num_compute_capabilities = len(recipe.compute_capabilities)
            for index, capability in enumerate(recipe.compute_capabilities):
                member = f"SM{capability.replace('.', '')}"
                config.set_compute_capability(getattr(trt.ComputeCapability, member), index)
            return config
        if recipe.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        level = recipe.hardware_compatible.upper().replace("-", "_")
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
        if self._timings is not None:
            self._timings.use(config)
        return config

    def _inspected(self, source: Path, plan: Any, origins: Mapping[str, str]) -> tuple[EngineLayer, ...] | None:
        """The engine's layers, checked like the network's; None where it cannot be loaded on this machine."""
        gpu = self._gpu
        if gpu is None or (self._api.portable and gpu.compute_capability not in self._recipe.compute_capabilities):
            return None
        runtime = self._api.trt.Runtime(self._api.log.native)
        runtime.engine_host_code_allowed = self._recipe.version_compatible  # it was built just now
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise self._failure(source, origins)
        layers = inspected_layers(self._api.trt, engine, origins)
        if not self._precision.kind.integer_products:  # which may be INT8 and are is the framework's own choice
            check_products(f"the engine of {source.name}", self._precision, layers)
        return layers

    def _refusal(self, source: Path, parser: Any, origins: Mapping[str, str]) -> BundleError | RuntimeUnavailable:
        errors = (parser.get_error(number) for number in range(parser.num_errors))
        error = next((error for error in errors if error.node_operator()), None)
        if error is None:
            return refused_graph(source, f"{self._api.title} {self._api.version}", RuntimeError(self._api.log.text))
        return RuntimeUnavailable(
            f"{source.name}, {described_node(error.node_name(), origins)}",
            got=f"the operator {error.node_operator()} ({error.desc()})",
            expected=f"one that {self._api.title} has",
            remedy="export to another format",
        )

    def _failure(self, source: Path, origins: Mapping[str, str]) -> RuntimeUnavailable:
        """A failed build; the framework quotes the node that it failed at, if it knows it."""
        text = self._api.log.text
        node = next((name for name in re.findall(r"'([^']+)'", text) if name in origins), None)
        place = f", {described_node(node, origins)}" if node else ""
        remedy = "allow more --option workspace-mb, or a smaller --batch" if "OutOfMemory" in text else None
        got = f"{self._api.title} fails to build it ({text})"
        return RuntimeUnavailable(f"{source.name}{place}", got=got, remedy=remedy)


def building_gpu(api: EngineApi, device: str | None = None) -> Gpu | None:
    """The GPU to build on, `cuda` or `cuda:1`; None is the first one, or none where a portable engine needs none.

    Raises:
        DeviceMissing: it is not there.
        UsageError: not the name of one.
    """
    if device is None and api.portable:
        return next(iter(all_gpus()), None)
    return gpu_named(api.name, device or DEFAULT_DEVICE)


def _profile(builder: Any, tensor: Any, limits: BatchLimits) -> Any:
    profile = builder.create_optimization_profile()
    sizes = (limits.least, limits.best or limits.least, limits.most)
    profile.set_shape(tensor.name, *((size, *tuple(tensor.shape)[1:]) for size in sizes))
    return profile


def _check_network(source: Path, network: Any, graph: GraphSpec) -> None:
    """An empty file is an empty network, and a manifest may name the wrong graph."""
    inputs = map(network.get_input, range(network.num_inputs))
    outputs = map(network.get_output, range(network.num_outputs))
    for kind, tensors, wanted in (("inputs", inputs, graph.inputs), ("outputs", outputs, graph.outputs)):
        found = [described_tensor(tensor.name, tensor.dtype.name, tensor.shape) for tensor in tensors]
        check_edges(source, kind, found or ["none"], wanted)
