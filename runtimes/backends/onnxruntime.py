"""ONNX Runtime, on the CPU or through another execution provider."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from vqrae.runtimes.errors import DeviceMissing, RuntimeUnavailable, unknown_name
from vqrae.runtimes.interrupts import interruptible
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import GraphSpec, RuntimeInfo
from vqrae.runtimes.sealed import Sealed
from vqrae.runtimes.session import (
    Execution,
    Session,
    check_doubled,
    check_edges,
    closed_session,
    failed_run,
    refused_graph,
)

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
"""Device -> the execution provider that must really run the graph. The first is the default."""

REMEDIES = {
    "cuda": "`pip uninstall onnxruntime && pip install 'vqrae[onnxruntime-gpu]'`",
    "tensorrt": "`pip uninstall onnxruntime && pip install 'vqrae[onnxruntime-gpu]'`, with TensorRT's libraries",
    "openvino": "`pip uninstall onnxruntime && pip install onnxruntime-openvino`, or export with --format openvino",
    "coreml": "use ONNX Runtime on macOS, or export with --format coreml",
}
"""Device -> what brings its provider."""

ERRORS = (
    ort_errors.EPFail,
    ort_errors.EngineError,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)  # ONNX Runtime's exceptions have no base of their own
DTYPES = {"tensor(uint8)": "uint8", "tensor(int32)": "int32", "tensor(float)": "float32"}
"""ONNX Runtime's name -> NumPy's, of what a bundle's graphs take and give."""
_PROBE = bytes.fromhex(
    "080a3a390a0e0a01780a01781201792203416464120570726f62655a0f0a0178120a0a08080112040a020802620f0a0179120a0a08080112"
    "040a02080242040a001014"
)
"""An ONNX file: y = x + x, on two floats."""


class OnnxRuntimeSession(Session):
    """A graph loaded by ONNX Runtime. The precision is the graph's own; nothing is converted at load."""

    plain_weights = True

    def __init__(self, session: onnxruntime.InferenceSession, device: str) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._outputs = [output.name for output in session.get_outputs()]
        self._device = device

    @classmethod
    def open(cls, sealed: Sealed, graph: GraphSpec, options: LoadOptions, runtime: RuntimeInfo) -> Self:  # noqa: D102 - documented by Session
        device = options.device or next(iter(PROVIDERS))
        provider = _provider(device)
        native, path = session_options(options), sealed.subject(graph.file)
        model = _in_memory(native, sealed, graph) if sealed.in_memory else sealed.path(graph.file)
        try:
            # Its fallback would start the session on the CPU, and say so on standard output.
            session = onnxruntime.InferenceSession(model, native, providers=[provider], enable_fallback=False)
        except ERRORS as error:
            raise refused_graph(path, f"ONNX Runtime {onnxruntime.__version__}", error) from error
        except (RuntimeError, ValueError) as error:  # what a provider raises that cannot start
            raise _not_running(device, str(error)) from error
        _check_provider(device, session.get_providers())
        check_edges(path, "inputs", _described(session.get_inputs()), graph.inputs)
        check_edges(path, "outputs", _described(session.get_outputs()), graph.outputs)
        return cls(session, device)

    @classmethod
    def probe(cls) -> str:  # noqa: D102 - documented by Session
        try:
            session = onnxruntime.InferenceSession(_PROBE, providers=["CPUExecutionProvider"])
            (doubled,) = session.run(None, {"x": np.array([1, 2], np.float32)})
        except ERRORS as error:
            raise failed_run("onnxruntime", error) from error
        check_doubled("onnxruntime", doubled)
        available = onnxruntime.get_available_providers()
        return "ran on cpu; providers: " + ", ".join(
            device for device, provider in PROVIDERS.items() if provider in available
        )

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:  # noqa: D102 - documented by Session
        session = self._session
        if session is None:
            raise closed_session("onnxruntime")
        run = onnxruntime.RunOptions()
        try:
            with interruptible(lambda: setattr(run, "terminate", True)):
                results = session.run(self._outputs, dict(feeds), run)
        except ERRORS as error:
            raise failed_run("onnxruntime", error) from error
        return dict(zip(self._outputs, results, strict=True))

    def close(self) -> None:  # noqa: D102 - documented by Session
        self._session = None

    @property
    def execution(self) -> Execution:  # noqa: D102 - documented by Session
        return Execution(
            runtime="onnxruntime",
            runtime_version=onnxruntime.__version__,
            device=self._device,
            precision="not told by ONNX Runtime",
        )


def _in_memory(native: onnxruntime.SessionOptions, sealed: Sealed, graph: GraphSpec) -> bytes:
    """The graph's bytes; its weights go into the options, under the names that it knows them by."""
    if graph.extra_files:
        add = getattr(native, "add_external_initializers_from_files_in_memory", None)
        if add is None:
            expected, remedy = "1.24, to load weights from memory", "pip install -U onnxruntime, or seal on disk"
            raise RuntimeUnavailable("onnxruntime", got=onnxruntime.__version__, expected=expected, remedy=remedy)
        folder = PurePosixPath(graph.file).parent
        contents = [sealed.content(file) for file in graph.extra_files]
        names = [str(PurePosixPath(file).relative_to(folder)) for file in graph.extra_files]
        add(names, contents, [len(content) for content in contents])  # `sealed` keeps them until the graph is loaded
    return bytes(sealed.content(graph.file))


def _provider(device: str) -> str:
    if device not in PROVIDERS:
        raise unknown_name("device", device, PROVIDERS)
    available = onnxruntime.get_available_providers()
    if PROVIDERS[device] not in available:
        raise DeviceMissing(
            f"onnxruntime on {device}",
            got=", ".join(available),
            expected=PROVIDERS[device],
            remedy=REMEDIES.get(device),
        )
    return PROVIDERS[device]


def _check_provider(device: str, running: list[str]) -> None:
    """A provider whose libraries or hardware are missing leaves its place to the CPU with no more than a warning."""
    if running[0] != PROVIDERS[device]:
        reason = _unloadable_library(device)
        raise _not_running(device, ", ".join(running) + (f" ({reason})" if reason else ""))


def _not_running(device: str, got: str) -> DeviceMissing:
    return DeviceMissing(
        f"onnxruntime on {device}",
        got=got,
        expected=f"{PROVIDERS[device]} first",
        remedy=f"install the driver and the libraries of {device}, or choose --device cpu",
    )


def _unloadable_library(device: str) -> str | None:
    """What the operating system misses to load the provider's library, which ONNX Runtime only tells its log."""
    for library in sorted(Path(onnxruntime.capi.__path__[0]).glob(f"*onnxruntime_providers_{device}.*")):
        try:
            ctypes.CDLL(str(library))
        except OSError as error:
            return str(error)
    return None


def session_options(options: LoadOptions) -> onnxruntime.SessionOptions:
    """The options that every graph is loaded with; silences the library, for what matters is raised."""
    onnxruntime.disable_telemetry_events()  # where it was imported before `vqrae` was, or in some builds for Windows
    onnxruntime.set_default_logger_severity(4)  # as below: what matters is raised
    native = onnxruntime.SessionOptions()
    native.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    native.inter_op_num_threads = 1
    native.log_severity_level = 3  # errors only
    # Of weights stored in INT8: multiply floats, as the graph says. By default activations are rounded to INT8 too,
    # which triples the excess distortion of such a bundle.
    native.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if options.threads is not None:
        native.intra_op_num_threads = options.threads
    return native


def _described(tensors: Iterable[Any]) -> list[str]:
    return [f"{t.name} {DTYPES.get(t.type, t.type)} ({', '.join(map(str, t.shape))})" for t in tensors]
