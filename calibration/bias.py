"""Bias correction (Nagel et al. 2019): what the rounding of weights adds on average is taken off again.

A rounded weight makes the same error for every token, times the activation's mean; the bias behind the product can take
that. For the scores of codes, whose inputs are far from zero on average, it is most of INT8's damage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from vqrae.calibration.layers import Product


def correct_biases(
    model: ModelProto,
    products: Sequence[Product],
    errors: Mapping[str, NDArray[np.float32]],
    means: Mapping[str, NDArray[np.float32]],
) -> None:
    """Move the biases behind products whose weights were rounded; changes the model in place.

    A product without a bias of its own is left as it is.

    Args:
        model: a graph with rounded weights.
        products: those with rounded weights, as they were named before it.
        errors: name of a weight -> what it was, less what it is now (C, O).
        means: name of a product's first input -> its mean in each channel (C,).
    """
    biases = own_biases(model, products)
    for product in products:
        bias = biases[product.layer]
        if bias is not None:
            moved_O = numpy_helper.to_array(bias) + means[product.inputs[0]] @ errors[product.inputs[1]]
            bias.CopyFrom(numpy_helper.from_array(moved_O.astype(np.float32), bias.name))


def own_biases(model: ModelProto, products: Sequence[Product]) -> dict[str, TensorProto | None]:
    """Layer -> the vector that is added to its product, if only to this one."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = {node.name: node for node in graph.node}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def own(following: Sequence[NodeProto]) -> TensorProto | None:
        if len(following) != 1 or following[0].op_type != "Add":
            return None
        added = [constants[name] for name in following[0].input if name in constants]
        return added[0] if len(added) == 1 and len(added[0].dims) == 1 and len(readers[added[0].name]) == 1 else None

    return {product.layer: own(readers.get(nodes[product.node].output[0], [])) for product in products}
