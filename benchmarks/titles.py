"""What runtimes are called by their makers."""

from __future__ import annotations

RUNTIME_TITLES = {
    "pytorch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "coreml": "Core ML",
    "tensorrt": "TensorRT",
    "tensorrt-rtx": "TensorRT-RTX",
}


def runtime_title(runtime: str) -> str:
    """The name that a runtime's makers give it: `ONNX Runtime`."""
    return RUNTIME_TITLES.get(runtime, runtime)
