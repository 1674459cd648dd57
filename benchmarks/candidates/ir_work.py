"""The arithmetic of an OpenVINO IR: as `arithmetic.py` counts an ONNX graph's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from vqrae.benchmarks.candidates.work import Work
from vqrae.runtimes.backends.openvino_library import openvino

_PASSED = ("Convert", "Multiply", "Subtract", "Reshape", "Transpose")
"""What may lie between a quantized value and the product that takes it."""
_QUANTIZED = ("i8", "u8")


def ir_work(path: Path, shape: Sequence[int]) -> Work:
    """What one call of a graph does, if its only input has this shape."""
    model = openvino.Core().read_model(path)
    model.reshape(list(shape))
    float_macs = int8_macs = moved = 0
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        if kind == "Constant":
            moved += operation.get_byte_size()
        elif kind in _COUNTERS:
            macs = _COUNTERS[kind](operation)
            if all(_is_quantized(operation.input_value(place).get_node()) for place in (0, 1)):
                int8_macs += macs
            else:
                float_macs += macs
    for port in (*model.inputs, *model.outputs):
        moved += prod(port.get_shape()) * port.get_element_type().size
    return Work(float_macs=float_macs, int8_macs=int8_macs, bytes_moved=moved)


def _is_quantized(operation: Any) -> bool:
    kind = operation.get_type_name()
    if kind == "FakeQuantize":
        return True
    if kind == "Constant":
        return operation.get_element_type().get_type_name() in _QUANTIZED
    return kind in _PASSED and _is_quantized(operation.input_value(0).get_node())


def _of_product(operation: Any) -> int:
    inner = operation.input(0).get_shape()[-2 if operation.get_attributes()["transpose_a"] else -1]
    return prod(operation.output(0).get_shape()) * inner


def _of_convolution(operation: Any) -> int:
    return prod(operation.output(0).get_shape()) * prod(operation.input(1).get_shape()[1:])


def _of_grouped_convolution(operation: Any) -> int:
    return prod(operation.output(0).get_shape()) * prod(operation.input(1).get_shape()[2:])  # (groups, out, in, …)


def _of_attention(operation: Any) -> int:
    queries, keys, values = (operation.input(place).get_shape() for place in range(3))
    return prod(queries[:-1]) * keys[-2] * (queries[-1] + values[-1])


_COUNTERS: Mapping[str, Callable[[Any], int]] = {
    "MatMul": _of_product,
    "Convolution": _of_convolution,
    "GroupConvolution": _of_grouped_convolution,
    "ScaledDotProductAttention": _of_attention,
}
