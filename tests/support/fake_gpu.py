"""Stands in for NVIDIA's driver, which this machine lacks, so that a session's own logic can be tested without one.

Covered: memory, streams, and the order and ownership of what a session asks for. Work on a stream is done no sooner
than the stream is waited for, so that what is read too early is seen. Not covered: what a GPU computes, or how fast.
"""
# ruff: noqa: N802 - the names are NVIDIA's

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import threading
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorrt_rtx
from cuda.bindings import runtime as real

from vqrae.runtimes.backends.tensorrt.api import EngineApi
from vqrae.runtimes.backends.tensorrt.session import EngineSession
from vqrae.runtimes.manifest import BatchLimits, EngineTies, GraphSpec, RuntimeInfo, TensorSpec

OK = real.cudaError_t.cudaSuccess
PLAN = b"a plan"
MOST = 4
SPEC = GraphSpec(
    file="graph.engine",
    inputs=(TensorSpec(name="pixels", dtype="uint8", shape=("batch", 3)),),
    outputs=(
        TensorSpec(name="sums", dtype="int32", shape=("batch",)),
        TensorSpec(name="halves", dtype="float32", shape=("batch", 3)),
    ),
    batch_limits=BatchLimits(most=MOST),
)
TIES = EngineTies(
    version=tensorrt_rtx.__version__,
    any_newer_version=False,
    platform="any",
    compute_capabilities=("8.6",),
    newer_hardware=False,
)
RUNTIME = RuntimeInfo(name="tensorrt-rtx", built_with={}, engine=TIES)


class FakeCudart:
    """The calls of `cuda.bindings.runtime` that the project makes. Memory is bytes, by address and GPU."""

    cudaError_t = real.cudaError_t
    cudaMemcpyKind = real.cudaMemcpyKind
    cudaStreamNonBlocking = real.cudaStreamNonBlocking
    cudaGetErrorString = staticmethod(real.cudaGetErrorString)

    def __init__(self, *capabilities: str) -> None:
        self.capabilities = capabilities
        self.memory: dict[int, bytearray] = {}
        self.home: dict[int, int] = {}
        self.queues: dict[int, list[Callable[[], None]]] = {}
        self.most_memory = 2**20
        self.calls: list[str] = []
        self.before_work: Callable[[], object] = lambda: None
        self._thread = threading.local()
        self._numbers = itertools.count(4096)

    @property
    def selected(self) -> int:
        return getattr(self._thread, "number", 0)

    def cudaGetDeviceCount(self) -> tuple[Any, int]:
        return OK, len(self.capabilities)

    def cudaDriverGetVersion(self) -> tuple[Any, int]:
        return OK, 13000

    def cudaGetDeviceProperties(self, number: int) -> tuple[Any, Any]:
        major, minor = self.capabilities[number].split(".")
        return OK, SimpleNamespace(name=f"Fake {number}".encode(), major=int(major), minor=int(minor))

    def cudaSetDevice(self, number: int) -> tuple[Any]:
        self._thread.number = number
        return (OK,)

    def cudaMalloc(self, size: int) -> tuple[Any, int | None]:
        self.calls.append("cudaMalloc")
        if sum(map(len, self.memory.values())) + size > self.most_memory:
            return real.cudaError_t.cudaErrorMemoryAllocation, None
        address = next(self._numbers)
        self.memory[address], self.home[address] = bytearray(size), self.selected
        return OK, address

    def cudaFree(self, address: int) -> tuple[Any]:
        del self.memory[address]
        return (OK,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, int]:
        assert flags == real.cudaStreamNonBlocking
        stream = next(self._numbers)
        self.queues[stream] = []
        return OK, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[Any]:
        assert not self.queues.pop(stream), "work is still queued"
        return (OK,)

    def cudaMemcpyAsync(self, to: int, source: int, count: int, kind: Any, stream: int) -> tuple[Any]:
        def copy() -> None:
            if kind == real.cudaMemcpyKind.cudaMemcpyHostToDevice:
                self.memory[to][:count] = ctypes.string_at(source, count)
            else:
                ctypes.memmove(to, bytes(self.memory[source][:count]), count)

        self.queues[stream].append(copy)
        return (OK,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any]:
        self.before_work()
        while self.queues[stream]:
            self.queues[stream].pop(0)()
        return (OK,)


class FakeContext:
    """Sums and halves of bytes."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.batch = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "pixels"
        self.batch = shape[0]
        if self.batch > MOST:
            self.engine.logger.log(tensorrt_rtx.ILogger.ERROR, f"{self.batch} is not within [1, {MOST}]")
        return self.batch <= MOST

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.batch if axis < 0 else axis for axis in self.engine.get_tensor_shape(name))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        cudart, batch, addresses = self.engine.cudart, self.batch, dict(self.addresses)
        assert {cudart.home[address] for address in addresses.values()} == {cudart.selected} == {self.engine.gpu}

        def work() -> None:
            pixels = np.frombuffer(cudart.memory[addresses["pixels"]], np.uint8, batch * 3).reshape(batch, 3)
            for name, values in (("sums", pixels.sum(1, dtype=np.int32)), ("halves", pixels / np.float32(2))):
                cudart.memory[addresses[name]][: values.nbytes] = values.tobytes()

        cudart.queues[stream].append(work)
        return True


class FakeCache:
    """Holds the name of each shape that was compiled for."""

    def __init__(self) -> None:
        self.kernels = b""

    def deserialize(self, content: bytes) -> bool:
        self.kernels = content
        return True

    def serialize(self) -> bytes:
        return self.kernels


class FakeEngine:
    """Of the signature `SPEC`."""

    def __init__(self, cudart: FakeCudart, logger: Any) -> None:
        self.cudart = cudart
        self.logger = logger
        self.gpu = cudart.selected
        self.contexts: weakref.WeakSet[FakeContext] = weakref.WeakSet()
        self.config = SimpleNamespace(create_runtime_cache=FakeCache, set_runtime_cache=lambda cache: None)
        self.tensors = {
            "sums": ("OUTPUT", "INT32", (-1,)),
            "pixels": ("INPUT", "UINT8", (-1, 3)),
            "halves": ("OUTPUT", "FLOAT", (-1, 3)),
        }
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, number: int) -> str:
        return list(self.tensors)[number]

    def get_tensor_mode(self, name: str) -> Any:
        return getattr(tensorrt_rtx.TensorIOMode, self.tensors[name][0])

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(tensorrt_rtx.DataType, self.tensors[name][1])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][2]

    def create_runtime_config(self) -> Any:
        return self.config

    def create_execution_context(self, config: Any) -> FakeContext:
        assert config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
        context = FakeContext(self)
        self.contexts.add(context)
        return context

    def create_engine_inspector(self) -> Any:
        half = {"Name": "x", "Format/Datatype": "Row major linear FP16 format"}
        layers = [{"Name": "myl0_1", "LayerType": "gemm", "Inputs": [half], "Outputs": [half], "Metadata": ""}]
        text = json.dumps({"Layers": layers, "Bindings": []})
        return SimpleNamespace(get_engine_information=lambda form: text)


class FakeTrt:
    """The real module, but for loading, which needs a driver."""

    def __init__(self, cudart: FakeCudart) -> None:
        self.engines: weakref.WeakSet[FakeEngine] = weakref.WeakSet()
        self._cudart = cudart

    def __getattr__(self, name: str) -> Any:
        return getattr(tensorrt_rtx, name)

    def Runtime(self, logger: Any) -> Any:
        def deserialize_cuda_engine(plan: bytes) -> FakeEngine | None:
            if plan != PLAN:
                logger.log(tensorrt_rtx.ILogger.ERROR, "the magic tag does not match")
                return None
            engine = FakeEngine(self._cudart, logger)
            self.engines.add(engine)
            return engine

        return SimpleNamespace(deserialize_cuda_engine=deserialize_cuda_engine)

    def live_contexts(self) -> int:
        gc.collect()
        return sum(len(engine.contexts) for engine in self.engines)


def fake_session(trt: FakeTrt) -> type[EngineSession]:
    """The session class of TensorRT-RTX on a fake GPU."""
    fake = EngineApi(name="tensorrt-rtx", title="TensorRT-RTX", trt=trt, portable=True)

    class FakeSession(EngineSession):
        @classmethod
        def api(cls) -> EngineApi:
            return fake

    return FakeSession
