"""The arithmetic of an ONNX graph: multiply-adds of its products and convolutions, and the bytes it must move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path

from vqrae.benchmarks.candidates.work import Work
from vqrae.runtimes.errors import RuntimeUnavailable

try:
    import onnx
except ImportError as error:
    remedy = "install it with `pip install 'vqrae[export]'`, or leave the limit out (--no-limit)"
    raise RuntimeUnavailable("onnx, which counts a graph's arithmetic", got="not installed", remedy=remedy) from error

Shapes = Mapping[str, tuple[int, ...]]


def onnx_work(path: Path, shape: Sequence[int]) -> Work | None:
    """What one call of a graph does, if its only input has this shape; weights are read once, results written once.

    None where it cannot be told: an operator of another domain than ONNX's own, a function, or an unknown shape.
    """
    model = onnx.load(path, load_external_data=False)
    if len(model.graph.input) != 1 or model.functions or any(node.domain for node in model.graph.node):
        return None
    for axis, size in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        axis.dim_value = size  # also what its name stands for, wherever that can be inferred
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.input, *graph.output)}
    shapes = {name: tuple(axis.dim_value for axis in value.shape.dim) for name, value in values.items()}
    shapes |= {weight.name: tuple(weight.dims) for weight in graph.initializer}
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    macs = {"float": 0, "int8": 0}
    for node in graph.node:
        if node.op_type not in _COUNTERS:
            continue
        data = [node.input[place] for place in _DATA.get(node.op_type, (0, 1))]
        if not all(_known(shapes, name) for name in (*data, node.output[0])):
            return None
        int8 = "Integer" in node.op_type or "QLinear" in node.op_type or all(name in dequantized for name in data)
        macs["int8" if int8 else "float"] += _COUNTERS[node.op_type](node, data, shapes)
    edges = [*graph.input, *graph.output]
    if not all(_known(shapes, edge.name) for edge in edges):
        return None
    moved = sum(_bytes(weight.dims, weight.data_type) for weight in graph.initializer)
    moved += sum(_bytes(shapes[edge.name], edge.type.tensor_type.elem_type) for edge in edges)
    return Work(float_macs=macs["float"], int8_macs=macs["int8"], bytes_moved=moved)


def _known(shapes: Shapes, name: str) -> bool:
    return name in shapes and all(shapes[name])


def _bytes(dims: Sequence[int], data_type: int) -> int:
    return prod(dims) * onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize


def _of_product(node: onnx.NodeProto, data: Sequence[str], shapes: Shapes) -> int:
    return prod(shapes[node.output[0]]) * shapes[data[0]][-1]


def _of_gemm(node: onnx.NodeProto, data: Sequence[str], shapes: Shapes) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return prod(shapes[node.output[0]]) * shapes[data[0]][0 if transposed else 1]


def _of_convolution(node: onnx.NodeProto, data: Sequence[str], shapes: Shapes) -> int:
    return prod(shapes[node.output[0]]) * prod(shapes[data[1]][1:])  # weight (out, in / groups, height, width)


_COUNTERS: Mapping[str, Callable[[onnx.NodeProto, Sequence[str], Shapes], int]] = {
    "MatMul": _of_product,
    "MatMulInteger": _of_product,
    "QLinearMatMul": _of_product,
    "Gemm": _of_gemm,
    "Conv": _of_convolution,
    "ConvInteger": _of_convolution,
    "QLinearConv": _of_convolution,
}
_DATA = {"QLinearMatMul": (0, 3), "QLinearConv": (0, 3)}
"""Which inputs are the two that are multiplied, where not the first two."""
