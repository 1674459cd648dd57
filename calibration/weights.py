"""Weights stored in INT8: a quarter of the bytes, and the products still multiply floats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from vqrae.calibration.layers import Product

REACH = 127
"""Largest magnitude of a stored weight; −128 is left out, so that the scale is the same on both sides of zero."""


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
    nodes = [*dequantizing, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def int8_from_float(weight_CO: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round to the nearest of 255 steps around zero, with a scale for each output channel.

    Returns:
        INT8 (C, O) and scales (O,); their product is at most half a scale away from the weight.
    """
    reach_O = np.abs(weight_CO).max(0)
    scale_O = np.where(reach_O > 0, reach_O / REACH, 1).astype(np.float32)  # a channel of zeros stays one
    return np.clip(np.round(weight_CO / scale_O), -REACH, REACH).astype(np.int8), scale_O
