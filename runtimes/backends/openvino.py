"""OpenVINO, on any of its devices."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vqrae.runtimes.backends.openvino_library import openvino
from vqrae.runtimes.backends.openvino_library import opset13 as ops
from vqrae.runtimes.compile_cache import CompileCache
from vqrae.runtimes.errors import DeviceMissing, RuntimeUnavailable, unknown_name
from vqrae.runtimes.interrupts import interruptible, kept_signal_stack
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.machine import this_machine
from vqrae.runtimes.manifest import GraphSpec, RuntimeInfo
from vqrae.runtimes.pool import Pool
from vqrae.runtimes.private_folder import PrivateFolder
from vqrae.runtimes.sealed import Sealed
from vqrae.runtimes.session import Execution, Session, check_doubled, check_edges, failed_run, refused_graph

VERSION = version("openvino")
DEFAULT_DEVICE = "cpu"
AS_THE_GRAPH_SAYS = {"INFERENCE_PRECISION_HINT": "dynamic", "EXECUTION_MODE_HINT": "ACCURACY"}
"""OpenVINO's default takes the fastest precision of the device, and asking for f16 where there is none gives bf16: both
silently. With these the graph's own types decide; where a device has no f16, they are computed in f32."""
FAITHFUL = ("f32", "f16", "i8", "u8")
"""Precisions that matrix products may be computed in: those that a graph can ask for."""
_DTYPES = {"u8": "uint8", "i32": "int32", "f32": "float32"}
_PRODUCTS = ("FullyConnected", "MatMul", "Gemm", "Convolution", "ScaledDotProductAttention")


class OpenVinoSession(Session):
    """A model compiled by OpenVINO, with one infer request for each call that goes on at once."""

    plain_weights = True

    def __init__(self, compiled: openvino.CompiledModel, device: str, weights: NDArray[np.uint8]) -> None:
        self._device = device
        self._weights: NDArray[np.uint8] | None = weights  # only referred to
        self._precision = _precision_that_runs(compiled)
        self._outputs = [output.get_any_name() for output in compiled.outputs]
        count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests = Pool("openvino", (compiled.create_infer_request() for _ in range(count)))

    @classmethod
    @kept_signal_stack()
    def open(cls, sealed: Sealed, graph: GraphSpec, options: LoadOptions, runtime: RuntimeInfo) -> Self:  # noqa: D102 - documented by Session
        core = openvino.Core()
        device, path = options.device or DEFAULT_DEVICE, sealed.subject(graph.file)
        native, properties = _native_device(core, device), native_properties(options)
        try:
            model, weights = _read_model(core, sealed, graph)
            if options.cache is None:
                compiled = core.compile_model(model, native, properties)
            else:
                compiled = _compiled_or_kept(core, model, native, properties, options.cache, sealed.sha256)
        except RuntimeError as error:
            raise refused_graph(path, f"OpenVINO {VERSION}", error) from error
        check_edges(path, "inputs", _described(compiled.inputs), graph.inputs)
        check_edges(path, "outputs", _described(compiled.outputs), graph.outputs)
        return cls(compiled, device, weights)

    @classmethod
    @kept_signal_stack()
    def probe(cls) -> str:  # noqa: D102 - documented by Session
        x = ops.parameter([2], np.float32, name="x")
        try:
            core = openvino.Core()
            compiled = core.compile_model(openvino.Model([ops.add(x, x)], [x], "probe"), "CPU")
            doubled = compiled(np.array([1, 2], np.float32))[0]
        except RuntimeError as error:
            raise failed_run("openvino", error) from error
        check_doubled("openvino", doubled)
        return "ran on cpu; devices: " + ", ".join(_devices(core))

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:  # noqa: D102 - documented by Session
        with self._requests.lend() as request:
            try:
                with interruptible(request.cancel):
                    request.start_async(dict(feeds), share_inputs=True)
                    request.wait()
                return {name: request.get_tensor(name).data.copy() for name in self._outputs}
            except RuntimeError as error:
                raise failed_run("openvino", error) from error

    def close(self) -> None:  # noqa: D102 - documented by Session
        self._requests.empty()  # nothing else keeps the compiled model
        self._weights = None

    @property
    def execution(self) -> Execution:  # noqa: D102 - documented by Session
        return Execution(
            runtime="openvino",
            runtime_version=VERSION,
            device=self._device,
            precision=self._precision,
        )


def _devices(core: openvino.Core) -> list[str]:
    """Names as users type them: `cpu`, `gpu`, `gpu.1`, `npu`."""
    return [name.lower() for name in core.available_devices]


def _native_device(core: openvino.Core, device: str) -> str:
    if device in _devices(core):
        return device.upper()
    if device.partition(".")[0] in ("cpu", "gpu", "npu"):
        raise DeviceMissing(
            f"openvino on {device}",
            got=f"the devices {', '.join(_devices(core))}",
            expected=device,
            remedy="install the driver of the device, or choose another --device",
        )
    raise unknown_name("device", device, _devices(core))


def native_properties(options: LoadOptions) -> dict[str, Any]:
    """The properties that every graph is compiled with."""
    properties: dict[str, Any] = {
        **AS_THE_GRAPH_SAYS,
        "PERFORMANCE_HINT": "LATENCY" if options.streams == 1 else "THROUGHPUT",
        "NUM_STREAMS": options.streams,
    }
    if options.threads is not None:
        properties["INFERENCE_NUM_THREADS"] = options.threads
    return properties


def _read_model(core: openvino.Core, sealed: Sealed, graph: GraphSpec) -> tuple[openvino.Model, NDArray[np.uint8]]:
    """A graph, and the weights that it refers to: they must live as long as it does."""
    weights = np.zeros(0, np.uint8)
    if not sealed.in_memory:
        return core.read_model(sealed.path(graph.file)), weights
    for file in graph.extra_files:  # an IR has one, or none
        weights = np.asarray(sealed.content(file))
    tensor = openvino.Tensor(weights, shared_memory=True)
    return core.read_model(bytes(sealed.content(graph.file)), tensor), weights


def _compiled_or_kept(
    core: openvino.Core, model: openvino.Model, device: str, properties: dict[str, Any], cache: Path, sha256: str
) -> openvino.CompiledModel:
    """Compile a model, or take from OpenVINO's own cache what it once compiled of the same bytes.

    OpenVINO finds a blob by the model's content, but takes on trust what the blob holds. So its cache is a private
    folder, which is given the one blob that this user has kept for these bytes, or gives one to be kept.
    """
    kept = CompileCache(cache)
    wanted = json.dumps([sha256, VERSION, device, properties, this_machine().cpu], sort_keys=True)
    prefix = f"{hashlib.sha256(wanted.encode()).hexdigest()}-"
    with PrivateFolder() as folder:
        given = set()
        for name in kept.names(prefix):
            if (blob := kept.read(name)) is not None:
                given.add(name.removeprefix(prefix))
                (folder.path / name.removeprefix(prefix)).write_bytes(blob)
                del blob
        compiled = core.compile_model(model, device, {**properties, "CACHE_DIR": str(folder.path)})
        for path in folder.path.glob("*.blob"):
            if path.name not in given:
                kept.keep(f"{prefix}{path.name}", path.read_bytes())
        return compiled


def _precision_that_runs(compiled: openvino.CompiledModel) -> str:
    """In which precision the matrix products are computed, such as `f32 ×20`, asked of the compiled model.

    Raises:
        RuntimeUnavailable: in one that no graph asked for.
    """
    counts: Counter[str] = Counter()
    for operation in compiled.get_runtime_model().get_ops():
        info = operation.get_rt_info()
        if info["layerType"].value in _PRODUCTS:
            counts[info["runtimePrecision"].value] += 1
    unasked = [precision for precision in counts if precision not in FAITHFUL]
    if unasked:
        expected, remedy = f"only {', '.join(FAITHFUL)}", "report it: the graph's own types were asked for"
        raise RuntimeUnavailable("openvino", got=f"matrix products in {unasked[0]}", expected=expected, remedy=remedy)
    return ", ".join(f"{precision} ×{count}" for precision, count in sorted(counts.items())) or "no matrix products"


def _described(tensors: Iterable[Any]) -> list[str]:
    """In the words of `TensorSpec`; the only dynamic axis of a graph is its batch."""
    texts = []
    for tensor in tensors:
        dtype = tensor.get_element_type().get_type_name()
        axes = ("batch" if axis.is_dynamic else str(axis) for axis in tensor.get_partial_shape())
        texts.append(f"{tensor.get_any_name()} {_DTYPES.get(dtype, dtype)} ({', '.join(axes)})")
    return texts
