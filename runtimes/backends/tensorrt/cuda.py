"""GPUs, their memory and their streams, through NVIDIA's own bindings; the status of every call is checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cuda.bindings import runtime as cudart
from numpy.typing import NDArray

from vqrae.runtimes.closing import Closing
from vqrae.runtimes.errors import DeviceMissing, RuntimeUnavailable, UsageError

DEFAULT_DEVICE = "cuda"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU of this machine."""

    number: int
    name: str
    compute_capability: str
    """Such as `8.6`."""

    def __str__(self) -> str:
        return f"cuda:{self.number} ({self.name})"

    def select(self) -> None:
        """What the calling thread asks CUDA for goes to this GPU from now on."""
        _call(cudart.cudaSetDevice, self.number)


def all_gpus() -> tuple[Gpu, ...]:
    """The GPUs of this machine; none without a driver."""
    status, count = cudart.cudaGetDeviceCount()
    return tuple(map(_gpu, range(count))) if status == cudart.cudaError_t.cudaSuccess else ()


def gpu_named(runtime: str, device: str) -> Gpu:
    """The GPU that `cuda` or `cuda:1` means.

    Args:
        runtime: who asks, for the error.
        device: its name.

    Raises:
        UsageError: not such a name.
        DeviceMissing: there is no such GPU, or no driver.
    """
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        raise UsageError("device", got=repr(device), expected="cuda, or one GPU of several, such as cuda:1")
    number, gpus = int(match.group(1) or 0), all_gpus()
    if not gpus:
        remedy = "run it on a machine that has them"
        raise DeviceMissing(
            f"{runtime} on {device}", got=why_no_gpu(), expected="an NVIDIA GPU and its driver", remedy=remedy
        )
    if number >= len(gpus):
        got, expected = ", ".join(map(str, gpus)), f"a GPU number {number}"
        raise DeviceMissing(f"{runtime} on {device}", got=got, expected=expected, remedy="choose another --device")
    return gpus[number]


def why_no_gpu() -> str:
    """Why `all_gpus` finds none, such as `no NVIDIA driver`."""
    status, _ = cudart.cudaGetDeviceCount()
    version: int = _call(cudart.cudaDriverGetVersion)
    if not version:
        return "no NVIDIA driver"
    return f"a driver for CUDA {version // 1000}.{version % 1000 // 10}, and no GPU ({_text(status)})"


class DeviceBuffer(Closing):
    """Memory of the selected GPU."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.address: int = _call(cudart.cudaMalloc, size)

    def close(self) -> None:
        """Free it; a second call does nothing."""
        address, self.address = self.address, 0
        if address:
            _call(cudart.cudaFree, address)


class Stream(Closing):
    """A queue of work on the selected GPU, which goes on while Python does. It waits for no other stream."""

    def __init__(self) -> None:
        self._native: Any = _call(cudart.cudaStreamCreateWithFlags, cudart.cudaStreamNonBlocking)

    @property
    def handle(self) -> int:
        """The number by which other libraries know it."""
        return int(self._native)

    def copy_in(self, buffer: DeviceBuffer, array: NDArray[Any]) -> None:
        """Queue a copy to the GPU; the array must stay as it is until `wait` returns."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        _call(cudart.cudaMemcpyAsync, buffer.address, array.ctypes.data, array.nbytes, kind, self._native)

    def copy_out(self, array: NDArray[Any], buffer: DeviceBuffer) -> None:
        """Queue a copy from the GPU; the array is filled when `wait` returns."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call(cudart.cudaMemcpyAsync, array.ctypes.data, buffer.address, array.nbytes, kind, self._native)

    def wait(self) -> None:
        """Return when all that was queued is done.

        Raises:
            RuntimeUnavailable: some of it failed.
        """
        _call(cudart.cudaStreamSynchronize, self._native)

    def close(self) -> None:
        """Release it; a second call does nothing."""
        native, self._native = self._native, None
        if native is not None:
            _call(cudart.cudaStreamDestroy, native)


def _gpu(number: int) -> Gpu:
    properties = _call(cudart.cudaGetDeviceProperties, number)
    name = properties.name.decode().rstrip("\0")
    return Gpu(number=number, name=name, compute_capability=f"{properties.major}.{properties.minor}")


def _call(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """What a CUDA call gives beside its status.

    Raises:
        RuntimeUnavailable: it failed, for example for want of memory.
    """
    status, *values = function(*arguments)
    if status != cudart.cudaError_t.cudaSuccess:
        raise RuntimeUnavailable("cuda", got=f"a failed {function.__name__} ({_text(status)})")
    return values[0] if values else None


def _text(status: Any) -> str:
    return str(cudart.cudaGetErrorString(status)[1].decode())
