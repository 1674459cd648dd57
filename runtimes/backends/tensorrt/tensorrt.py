"""TensorRT: engines that are built on and for the GPU at hand."""

from __future__ import annotations

import tensorrt

from vqrae.runtimes.backends.tensorrt.api import EngineApi
from vqrae.runtimes.backends.tensorrt.session import EngineSession

API = EngineApi(name="tensorrt", title="TensorRT", trt=tensorrt, portable=False)


class TensorRTSession(EngineSession):
    """An engine of TensorRT."""

    @classmethod
    def api(cls) -> EngineApi:  # noqa: D102 - documented by EngineSession
        return API
