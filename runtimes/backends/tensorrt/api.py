"""TensorRT and TensorRT-RTX are nearly one API: what they share is written once, and told which of them it uses."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_MESSAGES_KEPT = 8
_DTYPES = {"UINT8": "uint8", "INT32": "int32", "FLOAT": "float32"}


class EngineLog:
    """Collects a framework's errors, which would be printed otherwise; they say why a call returned nothing.

    One for each framework and process: a framework keeps the first logger that it is given.
    """

    def __init__(self, trt: Any) -> None:
        self._messages: deque[str] = deque(maxlen=_MESSAGES_KEPT)
        self.native = _native_logger(trt, self._messages)

    def clear(self) -> None:
        """Forget what was reported. A call that succeeds reports errors too, such as a missing driver."""
        self._messages.clear()

    @property
    def text(self) -> str:
        """What was reported since `clear`, each message once."""
        return "; ".join(dict.fromkeys(self._messages)) or "it gives no reason"


def _native_logger(trt: Any, messages: deque[str]) -> Any:
    class Collector(trt.ILogger):  # type: ignore[misc] # its framework has no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind refuses `super`

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                messages.append(message)

    return Collector()


@dataclass(frozen=True, kw_only=True)
class EngineApi:
    """One of the two frameworks."""

    name: str
    """The runtime's name in the registry."""
    title: str
    """Its makers' name for it."""
    trt: Any
    """The imported module."""
    portable: bool
    """TensorRT-RTX builds without a GPU, for a list of GPUs and any operating system, and compiles kernels on load.
    TensorRT builds on and for the GPU at hand."""

    @cached_property
    def log(self) -> EngineLog:
        """Collects what it reports."""
        return EngineLog(self.trt)

    @property
    def version(self) -> str:
        """The installed version."""
        return str(self.trt.__version__)

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """Those that a portable engine can be built for, such as `8.6`."""
        names = [name for name in self.trt.ComputeCapability.__members__ if name.startswith("SM")]
        return tuple(f"{name[2:-1]}.{name[-1]}" for name in names)


def described_tensor(name: str, dtype: str, shape: tuple[int, ...]) -> str:
    """A framework's tensor in the words of `TensorSpec`; the only dynamic axis of a graph is its batch."""
    axes = ", ".join("batch" if axis < 0 else str(axis) for axis in shape)
    return f"{name} {_DTYPES.get(dtype, dtype)} ({axes})"
