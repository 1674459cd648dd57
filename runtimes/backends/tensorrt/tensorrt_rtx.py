"""TensorRT for RTX: portable engines, whose kernels are compiled for the GPU that loads them."""

from __future__ import annotations

import tensorrt_rtx

from vqrae.runtimes.backends.tensorrt.api import EngineApi
from vqrae.runtimes.backends.tensorrt.session import EngineSession

API = EngineApi(name="tensorrt-rtx", title="TensorRT-RTX", trt=tensorrt_rtx, portable=True)


class TensorRTRTXSession(EngineSession):
    """An engine of TensorRT-RTX."""

    @classmethod
    def api(cls) -> EngineApi:  # noqa: D102 - documented by EngineSession
        return API
