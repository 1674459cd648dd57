"""SmoothQuant (Xiao et al. 2023), folded into the weights.

Channels that reach far are shrunk by the LayerNorm in front of a matrix product, and its weights grow by as much: the
function stays, and what INT8 has to cover evens out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from vqrae.calibration.layers import Product
from vqrae.calibration.ranges import Range


def smooth(model: ModelProto, products: Sequence[Product], ranges: Mapping[str, Range], alpha: float) -> None:
    """Even out the channels that LayerNorms hand to matrix products; changes the model in place.

    A tensor that anything else reads, such as the features that leave the graph, is left as it is.

    Args:
        model: a traced graph in FP32, its weights loaded.
        products: those that are to be INT8.
        ranges: of their first inputs.
        alpha: 0 leaves all spread in the activations, 1 moves all of it into the weights.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    readers = [name for node in graph.node for name in node.input] + [output.name for output in graph.output]
    for norm in graph.node:
        if norm.op_type != "LayerNormalization":
            continue
        followers = [product for product in products if product.inputs[0] == norm.output[0]]
        scaled = [*norm.input[1:], *(product.inputs[1] for product in followers)]
        whole = readers.count(norm.output[0]) == len(followers) > 0
        if not whole or any(readers.count(name) != 1 for name in scaled):
            continue
        matrices = [numpy_helper.to_array(weights[product.inputs[1]]) for product in followers]
        reach_C = np.max([np.abs(matrix).max(1) for matrix in matrices], axis=0)
        factors_C = _factors(ranges[norm.output[0]].largest_C, reach_C, alpha)
        for name in norm.input[1:]:
            _replace(weights[name], numpy_helper.to_array(weights[name]) / factors_C)
        for product, matrix in zip(followers, matrices, strict=True):
            _replace(weights[product.inputs[1]], matrix * factors_C[:, None])


def _factors(activations_C: NDArray[np.float32], weights_C: NDArray[np.float32], alpha: float) -> NDArray[np.float32]:
    """What each channel of the activations is divided by; powers of two, so that nothing is rounded."""
    least = np.finfo(np.float32).tiny
    factors = np.maximum(activations_C, least) ** alpha / np.maximum(weights_C, least) ** (1 - alpha)
    return np.exp2(np.round(np.log2(np.clip(factors, 2.0**-16, 2.0**16)))).astype(np.float32)


def _replace(tensor: TensorProto, values: NDArray[np.floating]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
