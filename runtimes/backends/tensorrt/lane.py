"""One call at a time through an engine: an execution context, a stream, and the GPU's memory for inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vqrae.runtimes.backends.tensorrt.api import EngineApi
from vqrae.runtimes.backends.tensorrt.cuda import DeviceBuffer, Gpu, Stream
from vqrae.runtimes.closing import Closing
from vqrae.runtimes.session import failed_run


class LaneOutput(Protocol):
    """What a lane has to know of an output; a `TensorSpec` is one."""

    @property
    def name(self) -> str:
        """The engine's name for it."""
        ...

    @property
    def dtype(self) -> str:
        """NumPy's name for its type."""
        ...


class EngineLane(Closing):
    """Belongs to one call at a time. Its memory on the GPU grows to the largest batch so far, and is used again."""

    def __init__(self, api: EngineApi, gpu: Gpu, context: Any, outputs: Sequence[LaneOutput]) -> None:
        self._api = api
        self._gpu = gpu
        self._context = context
        self._outputs = outputs
        self._buffers: dict[str, DeviceBuffer] = {}
        self._stream = Stream()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One array per output; the caller owns them.

        Raises:
            RuntimeUnavailable: the engine does not take the batch, or the GPU failed.
        """
        self._gpu.select()  # the thread may have come from another GPU
        self._api.log.clear()
        try:
            for name, array in feeds.items():
                self._require(self._context.set_input_shape(name, array.shape))
                self._stream.copy_in(self._bound(name, array.nbytes), array)
            outputs = {
                spec.name: np.empty(tuple(self._context.get_tensor_shape(spec.name)), spec.dtype)
                for spec in self._outputs
            }
            for name, array in outputs.items():
                self._bound(name, array.nbytes)
            self._require(self._context.execute_async_v3(self._stream.handle))
            for name, array in outputs.items():
                self._stream.copy_out(array, self._buffers[name])
        finally:
            self._stream.wait()  # after a failure too: nothing may still read or write the arrays
        return outputs

    def close(self) -> None:
        """Release the context, the stream and the memory; a second call does nothing."""
        self._gpu.select()
        self._context = None
        with ExitStack() as stack:  # closes them all, whichever fails
            stack.enter_context(self._stream)
            while self._buffers:
                stack.enter_context(self._buffers.popitem()[1])

    def _bound(self, name: str, size: int) -> DeviceBuffer:
        """Memory of at least this size, which the context knows as the tensor of that name."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            if buffer is not None:
                self._buffers.pop(name).close()  # before the next is asked for, which may fail
            buffer = self._buffers[name] = DeviceBuffer(size)
        self._require(self._context.set_tensor_address(name, buffer.address))
        return buffer

    def _require(self, success: bool) -> None:
        if not success:
            raise failed_run(self._api.name, RuntimeError(self._api.log.text))
