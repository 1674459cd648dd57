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
    weights: Mapping[str, NDArray[np.float32]],
    means: Mapping[str, NDArray[np.float32]],
) -> None:
    """Move the biases behind products at INT8; changes the model in place.

    A product without a bias of its own is left as it is.

    Args:
        model: a graph with Q/DQ.
        products: at INT8, as they were named before it.
        weights: name -> what the weight was (C, O).
        means: name of a product's first input -> its mean in each channel (C,).
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = {node.name: node for node in graph.node}
    made_by = {output: node for node in graph.node for output in node.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for product in products:
        if not product.has_weight:
            continue
        node = nodes[product.node]
        bias = _own_bias(readers.get(node.output[0], []), readers, constants)
        if bias is not None:
            error_CO = weights[product.inputs[1]] - _restored(made_by[node.input[1]], constants)
            moved_O = numpy_helper.to_array(bias) + means[product.inputs[0]] @ error_CO
            bias.CopyFrom(numpy_helper.from_array(moved_O.astype(np.float32), bias.name))


def _own_bias(
    following: Sequence[NodeProto], readers: Mapping[str, Sequence[NodeProto]], constants: Mapping[str, TensorProto]
) -> TensorProto | None:
    """The vector that is added to a product, if only to this one."""
    if len(following) != 1 or following[0].op_type != "Add":
        return None
    added = [constants[name] for name in following[0].input if name in constants]
    return added[0] if len(added) == 1 and len(added[0].dims) == 1 and len(readers[added[0].name]) == 1 else None


def _restored(node: NodeProto, constants: Mapping[str, TensorProto]) -> NDArray[np.float32]:
    """What a DequantizeLinear makes of a weight (C, O) and scales (O,), around zero."""
    stored, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
    return np.asarray(stored * scale, np.float32)
