"""The runtimes that can be named, and where their sessions live. A literal table: nothing registers itself."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec

from vqrae.runtimes.errors import RuntimeUnavailable, unknown_name
from vqrae.runtimes.session import Session


@dataclass(frozen=True, kw_only=True)
class RuntimeEntry:
    """One runtime."""

    title: str
    """What its makers call it."""
    backend: str
    """`module:Class` of its session."""
    module: str
    """The framework's import name."""
    extra: str
    """The extra of this project that installs it."""
    distributions: tuple[str, ...]
    """The packages that may have brought the framework; of several, they own the same folder."""


RUNTIMES: dict[str, RuntimeEntry] = {
    "onnxruntime": RuntimeEntry(
        title="ONNX Runtime",
        backend="vqrae.runtimes.backends.onnxruntime:OnnxRuntimeSession",
        module="onnxruntime",
        extra="onnxruntime",
        distributions=("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
    ),
    "openvino": RuntimeEntry(
        title="OpenVINO",
        backend="vqrae.runtimes.backends.openvino:OpenVinoSession",
        module="openvino",
        extra="openvino",
        distributions=("openvino",),
    ),
    "coreml": RuntimeEntry(
        title="Core ML",
        backend="vqrae.runtimes.backends.coreml:CoreMLSession",
        module="coremltools",
        extra="coreml",
        distributions=("coremltools",),
    ),
    "tensorrt": RuntimeEntry(
        title="TensorRT",
        backend="vqrae.runtimes.backends.tensorrt.tensorrt:TensorRTSession",
        module="tensorrt",
        extra="tensorrt",
        distributions=("tensorrt",),
    ),
    "tensorrt-rtx": RuntimeEntry(
        title="TensorRT-RTX",
        backend="vqrae.runtimes.backends.tensorrt.tensorrt_rtx:TensorRTRTXSession",
        module="tensorrt_rtx",
        extra="tensorrt-rtx",
        distributions=("tensorrt-rtx",),
    ),
}
"""Runtime name -> where it lives."""


def session_class(name: str) -> type[Session]:
    """The session class of a runtime; imports its framework.

    Raises:
        UsageError: no such runtime; the nearest name is suggested.
        RuntimeUnavailable: the framework is not installed, or twice, or cannot be imported.
    """
    entry = _entry(name)
    install = f"pip install 'vqrae[{entry.extra}]'"
    installed = [wheel for wheel in entry.distributions if _version(wheel)]
    if len(installed) > 1:
        got = f"{', '.join(installed[:-1])} and {installed[-1]}, which share one folder: which is imported is luck"
        remedy = f"`pip uninstall -y {' '.join(installed)} && {install}`"
        raise RuntimeUnavailable(name, got=got, expected="one of them", remedy=remedy)
    remedy = f"Install it with `{install}`"
    if find_spec(entry.module) is None:
        raise RuntimeUnavailable(f"{name} is not installed", remedy=remedy)
    module, attribute = entry.backend.split(":")
    try:
        session: type[Session] = getattr(import_module(module), attribute)
    except ImportError as error:
        raise RuntimeUnavailable(f"{name} cannot be imported", got=str(error), remedy=remedy) from error
    return session


def runtime_version(name: str) -> str | None:
    """The installed version of a runtime, without importing it; None if it is not installed.

    Raises:
        UsageError: no such runtime.
    """
    return next((found for wheel in _entry(name).distributions if (found := _version(wheel))), None)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _entry(name: str) -> RuntimeEntry:
    if name not in RUNTIMES:
        raise unknown_name("runtime", name, RUNTIMES)
    return RUNTIMES[name]
