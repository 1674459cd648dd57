"""Weights and tables stored in a quarter or half of the bytes, while the products still multiply floats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from vqrae.calibration.layers import Product
from vqrae.calibration.plan import Scheme

Bits = Literal[8, 12, 16]
LARGEST: Mapping[Bits, int] = {8: 127, 12: 2047, 16: 32767}
"""Bits -> largest magnitude. The lowest whole number is left out, so that both sides of zero have the same scale."""
LARGE = 2**16
"""Least count of numbers that are worth a conversion of their own."""
NIBBLE = 16
PACKED_MOST = 2**20
"""Most numbers that are worth it. Putting them together makes copies in 4 bytes each: for the codes of `base`, 330 MB
more at ONNX Runtime's peak and a third of a second at load, to save 6 MB."""
LOOKUP_BITS: Mapping[str, Bits] = {"encode": 16, "decode": 8}
"""Graph -> bits of a table that rows are taken from: `decode` shows what it takes, `encode` chooses codes by it."""
ADDED_BITS: Mapping[str, Bits] = {"encode": 12, "decode": 8}
"""Graph -> bits of what is added, such as position embeddings."""


def store_in_int8(model: ModelProto, products: Sequence[Product]) -> None:
    """Replace the weights of these products by INT8 and a DequantizeLinear; changes the model in place.

    Args:
        model: a traced graph in FP32, its weights loaded.
        products: some of those with weights.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    dequantizing = []
    for name in dict.fromkeys(product.inputs[1] for product in products):
        stored_CO, scale_O = int8_from_float(numpy_helper.to_array(weights[name]))
        stored, scale = f"{name}_int8", f"{name}_scale"
        graph.initializer.remove(weights[name])
        graph.initializer.extend([numpy_helper.from_array(stored_CO, stored), numpy_helper.from_array(scale_O, scale)])
        dequantizing.append(helper.make_node("DequantizeLinear", [stored, scale], [name], f"{name}_dequantize", axis=1))
    _put_first(model, dequantizing)


def store_constants(
    model: ModelProto, scheme: Scheme, *, lookup_bits: Bits = 16, added_bits: Bits = 16, least: int = LARGE
) -> None:
    """Replace all large FP32 constants by fewer bytes, as the runtime takes them; changes the model in place.

    Args:
        model: a graph, its weights loaded.
        scheme: what the runtime takes.
        lookup_bits: see `store_in_whole_numbers`.
        added_bits: see there.
        least: how many numbers are large.
    """
    if scheme == "symmetric":
        store_in_half(model, least)
    else:
        store_in_whole_numbers(model, lookup_bits=lookup_bits, added_bits=added_bits, least=least)


def store_in_whole_numbers(
    model: ModelProto, *, lookup_bits: Bits = 16, added_bits: Bits = 16, least: int = LARGE
) -> None:
    """Replace all large FP32 constants by whole numbers with a scale for each channel; changes the model in place.

    A runtime multiplies them out when it loads the graph. Of 16 bits, all are spent on a channel's own reach: that is
    some hundred times closer to the scores of neighboring codes than FP16, which rounds each number for itself.

    Args:
        model: a graph, its weights loaded; channels are the last axis.
        lookup_bits: of a table that rows are taken from. It has a scale for each row, the only kind that OpenVINO takes
            rows of INT8 with (2026.4 crashes at another).
        added_bits: of what is added, such as position embeddings; where it is large, 12 stands for 16.
        least: how many numbers are large.
    """
    looked_up = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    added = {name for node in model.graph.node if node.op_type == "Add" for name in node.input}
    for tensor in _large_constants(model, least):
        name, values = tensor.name, numpy_helper.to_array(tensor)
        if name in looked_up:
            rows, scale_of_rows = whole_numbers(values.T, lookup_bits)
            store_whole(model, name, np.ascontiguousarray(rows.T), scale_of_rows[:, None])
        elif name in added and added_bits == 12 and values.size <= PACKED_MOST:
            store_packed(model, name, *whole_numbers(values, 12))
        else:
            store_whole(model, name, *whole_numbers(values, 8 if name in added and added_bits == 8 else 16))


def store_whole(model: ModelProto, name: str, stored: NDArray[Any], scale: NDArray[np.float32]) -> None:
    """Replace an FP32 constant by whole numbers, which a runtime multiplies out at load; changes the model in place.

    Args:
        model: a graph, its weights loaded.
        name: of the constant.
        stored: int8 or int16 in place of it.
        scale: what one of them is worth, broadcast to its shape.
    """
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    tensor.CopyFrom(numpy_helper.from_array(stored, f"{name}_stored"))
    model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
    cast = helper.make_node("Cast", [f"{name}_stored"], [f"{name}_cast"], f"{name}_cast", to=TensorProto.FLOAT)
    restored = helper.make_node("Mul", [f"{name}_cast", f"{name}_scale"], [name], f"{name}_restore")
    _put_first(model, [cast, restored])


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

    ONNX has no such type, so the graph puts the numbers together; a runtime does it once, when it loads the graph.

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
    _put_first(model, _unpacking(name, axis))


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


def store_in_half(model: ModelProto, least: int = LARGE) -> None:
    """Replace all large FP32 constants by FP16 and a Cast, for runtimes without int16; changes the model in place.

    One that FP16 cannot hold, because a number is beyond 65504, stays as it is.

    Args:
        model: a graph, its weights loaded.
        least: how many numbers are large.
    """
    casting = []
    for tensor in _large_constants(model, least):
        values = numpy_helper.to_array(tensor)
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name, stored = tensor.name, f"{tensor.name}_half"
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
        casting.append(helper.make_node("Cast", [stored], [name], f"{name}_cast", to=TensorProto.FLOAT))
    _put_first(model, casting)


def _large_constants(model: ModelProto, least: int) -> list[TensorProto]:
    return [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims, dtype=int) >= least
    ]


def _put_first(model: ModelProto, nodes: Sequence[NodeProto]) -> None:
    """Constants are made before anything reads them."""
    whole = [*nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(whole)


def int8_from_float(weight_CO: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round to the nearest of 255 steps around zero, with a scale for each output channel.

    Returns:
        INT8 (C, O) and scales (O,); their product is at most half a scale away from the weight.
    """
    return whole_numbers(weight_CO, 8)


def whole_numbers(values: NDArray[np.float32], bits: Bits) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Round to the nearest of 2^bits − 1 steps around zero, with a scale for each channel of the last axis (…, O).

    Returns:
        int8 or int16 (…, O) and scales (O,); their product is at most half a scale away from the values.
    """
    largest = LARGEST[bits]
    reach_O = np.abs(values).max(tuple(range(values.ndim - 1)))
    scale_O = np.where(reach_O > 0, reach_O / largest, 1).astype(np.float32)  # a channel of zeros stays one
    stored = np.clip(np.round(values / scale_O), -largest, largest)
    return stored.astype(np.int8 if bits == 8 else np.int16), scale_O
