"""The template suite on every runtime, at FP32 and FP16."""

from __future__ import annotations

from session_template import SessionTemplate


class OnnxRuntime(SessionTemplate):
    format_name = "onnx"
    devices = "device: got 'tpu'; expected one of cpu, cuda, tensorrt, openvino, coreml"


class OpenVino(SessionTemplate):
    format_name = "openvino"
    devices = "device: got 'tpu'; expected one of cpu"


class CoreML(SessionTemplate):
    """By Core ML on a Mac, by the evaluator elsewhere."""

    format_name = "coreml"
    devices = "device: got 'tpu'; expected one of all, cpu, gpu, ne, evaluator"


class TensorRTRTX(SessionTemplate):
    format_name = "tensorrt-rtx"
    devices = "device: got 'tpu'; expected cuda, or one GPU of several, such as cuda:1"
    needs_gpu = True


class TensorRT(TensorRTRTX):
    format_name = "tensorrt"
    needs_gpu_to_build = True


class TestOnnxRuntimeFP32(OnnxRuntime):
    precision = "fp32"


class TestOnnxRuntimeFP16(OnnxRuntime):
    precision = "fp16"


class TestOpenVinoFP32(OpenVino):
    precision = "fp32"


class TestOpenVinoFP16(OpenVino):
    precision = "fp16"


class TestCoreMLFP32(CoreML):
    precision = "fp32"


class TestCoreMLFP16(CoreML):
    precision = "fp16"


class TestTensorRTRTXFP32(TensorRTRTX):
    precision = "fp32"


class TestTensorRTRTXFP16(TensorRTRTX):
    precision = "fp16"


class TestTensorRTFP32(TensorRT):
    precision = "fp32"


class TestTensorRTFP16(TensorRT):
    precision = "fp16"
