"""Constants in 12 bits a number: the upper 8 as int8, and the lower 4 of two numbers in one byte.

ONNX has no such type, so the graph puts the numbers together; a runtime does it once, when it loads the graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

NIBBLE = 16
PACKED_MOST = 2**20
"""Most numbers that are worth it. Putting them together makes copies in 4 bytes each: for the codes of `base`, 330 MB
more at ONNX Runtime's peak and a third of a second at load, to save 6 MB."""


def split(whole: NDArray[np.int16]) -> tuple[NDArray[np.int8], NDArray[np.uint8], int]:
    """Whole numbers of 12 bits (C, O) as int8 of the same shape, and uint8 of half the length along one axis.

    Byte c of the second holds the lower bits of number c in its upper half, those of number c + C/2 in its lower half.

    Returns:
        Upper bits, lower bits, and the axis: the first one that is even.
    """
    axis = next(axis for axis, length in enumerate(whole.shape) if length % 2 == 0)  # a feature's width always is
    first, second = np.split((whole % NIBBLE).astype(np.uint8), 2, axis)
    return (whole // NIBBLE).astype(np.int8), first * np.uint8(NIBBLE) + second, axis


def store_packed(model: ModelProto, name: str, whole_CO: NDArray[np.int16], scale_O: NDArray[np.float32]) -> None:
    """Replace an FP32 constant by whole numbers of 12 bits and a scale for each channel; changes the model in place.

    Args:
        model: a graph, its weights loaded.
        name: of the constant (C, O); one of both is even.
        whole_CO: in place of it.
        scale_O: what one of them is worth.
    """
    high_CO, low, axis = split(whole_CO)
    constants = {"high": high_CO, "low": low, "scale": scale_O, "nibble": np.int32(NIBBLE)}
    graph = model.graph
    (constant,) = [tensor for tensor in graph.initializer if tensor.name == name]
    graph.initializer.remove(constant)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(values), f"{name}_{part}") for part, values in constants.items()
    )
    whole = [*_unpacking(name, axis), *graph.node]  # constants are made before anything reads them
    del graph.node[:]
    graph.node.extend(whole)


def _unpacking(name: str, axis: int) -> list[NodeProto]:
    """In int32: OpenVINO 2026.4 dies of the same in floats, where it is let compute in BF16."""

    def node(operator: str, inputs: tuple[str, ...], output: str, **attributes: Any) -> NodeProto:
        made = f"{name}_{output}" if output else name
        taken = [f"{name}_{part}" for part in inputs]
        return helper.make_node(operator, taken, [made], f"{made}_{operator}", **attributes)

    return [
        node("Cast", ("low",), "bytes", to=TensorProto.INT32),
        node("Div", ("bytes", "nibble"), "first"),
        node("Mul", ("first", "nibble"), "upper"),
        node("Sub", ("bytes", "upper"), "second"),
        node("Concat", ("first", "second"), "lower", axis=axis),
        node("Cast", ("high",), "highest", to=TensorProto.INT32),
        node("Mul", ("highest", "nibble"), "higher"),
        node("Add", ("higher", "lower"), "together"),
        node("Cast", ("together",), "whole", to=TensorProto.FLOAT),
        node("Mul", ("whole", "scale"), ""),
    ]
