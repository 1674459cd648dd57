"""ONNX Runtime, on the CPU or through CUDA."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from vqrae.runtimes.errors import BundleError, RuntimeUnavailable, UsageError
from vqrae.runtimes.manifest import GraphSpec
from vqrae.runtimes.session import Execution, Session, SessionOptions

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Device -> the execution provider that must really run the graph."""

_ERRORS = (
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
_DTYPES = {"tensor(uint8)": "uint8", "tensor(int32)": "int32", "tensor(float)": "float32"}


class OnnxRuntimeSession(Session):
    """A graph loaded by ONNX Runtime. The precision is the graph's own; nothing is converted at load."""

    def __init__(self, session: onnxruntime.InferenceSession, device: str) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._outputs = [output.name for output in session.get_outputs()]
        self._device = device

    @classmethod
    def open(cls, path: Path, graph: GraphSpec, options: SessionOptions) -> Self:  # noqa: D102 - documented by Session
        provider = _provider(options.device)
        try:
            session = onnxruntime.InferenceSession(path, _session_options(options), providers=[provider])
        except _ERRORS as error:
            got = f"ONNX Runtime {onnxruntime.__version__} refuses it ({error})"
            raise BundleError(str(path), got=got, expected="a graph that it can load") from error
        session.disable_fallback()
        running = session.get_providers()[0]
        if running != provider:
            raise RuntimeUnavailable(
                f"onnxruntime on {options.device}",
                got=running,
                expected=provider,
                remedy="check the CUDA and cuDNN libraries, or choose --device cpu",
            )
        _check_signature(path, "inputs", session.get_inputs(), graph.inputs)
        _check_signature(path, "outputs", session.get_outputs(), graph.outputs)
        return cls(session, options.device)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:  # noqa: D102 - documented by Session
        session = self._session  # `close` may come from another thread
        if session is None:
            raise UsageError("onnxruntime session", got="a run after close", expected="an open session")
        try:
            results = session.run(self._outputs, dict(feeds))
        except _ERRORS as error:
            raise RuntimeUnavailable("onnxruntime", got=f"a failed run ({error})") from error
        return dict(zip(self._outputs, results, strict=True))

    def close(self) -> None:  # noqa: D102 - documented by Session
        self._session = None

    @property
    def execution(self) -> Execution:  # noqa: D102 - documented by Session
        return Execution(
            runtime="onnxruntime",
            runtime_version=onnxruntime.__version__,
            device=self._device,
            precision_note="as the graph says",
        )


def _provider(device: str) -> str:
    if device not in PROVIDERS:
        raise UsageError("device", got=repr(device), expected=f"one of {', '.join(PROVIDERS)}")
    available = onnxruntime.get_available_providers()
    if PROVIDERS[device] not in available:
        raise RuntimeUnavailable(
            f"onnxruntime on {device}",
            got=", ".join(available),
            expected=PROVIDERS[device],
            remedy="`pip uninstall onnxruntime && pip install 'vqrae[onnxruntime-gpu]'`",
        )
    return PROVIDERS[device]


def _session_options(options: SessionOptions) -> onnxruntime.SessionOptions:
    onnxruntime.disable_telemetry_events()
    native = onnxruntime.SessionOptions()
    native.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    native.inter_op_num_threads = 1
    native.log_severity_level = 3  # errors only; what matters is raised
    if options.threads is not None:
        native.intra_op_num_threads = options.threads
    return native


def _check_signature(path: Path, kind: str, found: Any, wanted: Any) -> None:
    got = ", ".join(f"{t.name} {_DTYPES.get(t.type, t.type)} ({', '.join(map(str, t.shape))})" for t in found)
    expected = ", ".join(map(str, wanted))
    if got != expected:
        remedy = "export it again"
        raise BundleError(f"{path} {kind}", got=got, expected=f"{expected}, as the manifest says", remedy=remedy)
