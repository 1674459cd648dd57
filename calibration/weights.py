"""Weights stored in a quarter or half of the bytes, as INT8 or FP16, while the products still multiply floats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from vqrae.calibration.layers import Product

REACH = 127
"""Largest magnitude of a stored weight; −128 is left out, so that the scale is the same on both sides of zero."""
LARGE = 2**16
"""Least count of numbers that are worth a conversion of their own."""


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


def store_in_half(model: ModelProto, least: int = LARGE) -> None:
    """Replace all large FP32 constants by FP16 and a Cast; changes the model in place.

    One that FP16 cannot hold, because a number is beyond 65504, stays as it is.

    Args:
        model: a graph, its weights loaded.
        least: how many numbers are large.
    """
    casting = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims, dtype=int) < least:
            continue
        values = numpy_helper.to_array(tensor)
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name, stored = tensor.name, f"{tensor.name}_half"
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
        casting.append(helper.make_node("Cast", [stored], [name], f"{name}_cast", to=TensorProto.FLOAT))
    _put_first(model, casting)


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
    reach_O = np.abs(weight_CO).max(0)
    scale_O = np.where(reach_O > 0, reach_O / REACH, 1).astype(np.float32)  # a channel of zeros stays one
    return np.clip(np.round(weight_CO / scale_O), -REACH, REACH).astype(np.int8), scale_O
