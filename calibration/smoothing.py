"""SmoothQuant (Xiao et al. 2023), folded into the weights.

Channels that reach far are shrunk by the LayerNorm in front of a matrix product, and its weights grow by as much: the
function stays, and what INT8 has to cover evens out. What attention hands to its output projection is shrunk in the
same way, by the projection that makes the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from vqrae.calibration.bias import own_biases
from vqrae.calibration.layers import Product
from vqrae.calibration.ranges import Range


def smooth(model: ModelProto, products: Sequence[Product], ranges: Mapping[str, Range], alpha: float) -> None:
    """Even out the channels that matrix products take from LayerNorms and from attention; changes the model in place.

    A tensor that anything else reads, such as the features that leave the graph, is left as it is.

    Args:
        model: a traced graph in FP32, its weights loaded.
        products: those that are to be INT8.
        ranges: of their first inputs.
        alpha: 0 leaves all spread in the activations, 1 moves all of it into the weights.
    """
    _smooth_norms(model, products, ranges, alpha)
    _smooth_values(model, products, ranges, alpha)


def _smooth_norms(model: ModelProto, products: Sequence[Product], ranges: Mapping[str, Range], alpha: float) -> None:
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


def _smooth_values(model: ModelProto, products: Sequence[Product], ranges: Mapping[str, Range], alpha: float) -> None:
    """Attention weighs whole values, so a factor of a value's channel comes out as it went in."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    biases = own_biases(model, products)
    by_layer = {product.layer: product for product in products}
    for out in products:
        block, _, kind = out.layer.rpartition(".")
        made = by_layer.get(f"{block}.query_key_value")
        if kind != "out" or made is None:
            continue
        bias, projection, matrix = biases[made.layer], weights[made.inputs[1]], weights[out.inputs[1]]
        if bias is None:
            continue
        matrix_CO = numpy_helper.to_array(matrix)
        factors_C = _factors(ranges[out.inputs[0]].largest_C, np.abs(matrix_CO).max(1), alpha)
        divisors = np.concatenate([np.ones(2 * len(factors_C), np.float32), factors_C])  # queries, keys, values
        for tensor in (projection, bias):
            _replace(tensor, numpy_helper.to_array(tensor) / divisors)
        _replace(matrix, matrix_CO * factors_C[:, None])


def _factors(activations_C: NDArray[np.float32], weights_C: NDArray[np.float32], alpha: float) -> NDArray[np.float32]:
    """What each channel of the activations is divided by; powers of two, so that nothing is rounded."""
    least = np.finfo(np.float32).tiny
    factors = np.maximum(activations_C, least) ** alpha / np.maximum(weights_C, least) ** (1 - alpha)
    return np.exp2(np.round(np.log2(np.clip(factors, 2.0**-16, 2.0**16)))).astype(np.float32)


def _replace(tensor: TensorProto, values: NDArray[np.floating]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
