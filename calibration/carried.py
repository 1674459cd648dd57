"""What calibration found, in terms of the model's own layers, for a format that is not made from the ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from vqrae.calibration.layers import Product
from vqrae.calibration.ranges import Range


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A weight in INT8."""

    whole_CO: NDArray[np.int8]
    scale_O: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Carried:
    """Of one graph and one plan."""

    reaches: dict[str, tuple[float, ...]]
    """Layer at INT8 -> largest magnitude of each of its inputs that is no weight."""
    weights: dict[str, Stored]
    """Layer at INT8, if it has one -> its weight, as it was rounded."""
    smoothed: dict[str, NDArray[np.float32]]
    """The module's parameters that smoothing changed -> their values, laid out as in PyTorch."""
    corrected: dict[str, NDArray[np.float32]]
    """Of those and of others, what was moved because weights were rounded: biases, and weights that stay float."""


def carried(
    graphs: tuple[ModelProto, ModelProto, ModelProto],
    products: Sequence[Product],
    chosen: Sequence[Product],
    ranges: Mapping[str, Range],
) -> Carried:
    """Read the ranges by layer, and the constants in which graphs differ.

    Args:
        graphs: one as it was traced; the same smoothed; and what came of it, INT8 with symmetric activations.
        products: all.
        chosen: the products at INT8.
        ranges: of what goes into these, by the smoothed graph's names.
    """
    reaches = {
        product.layer: tuple(
            max(abs(ranges[name].low), abs(ranges[name].high))
            for name in product.inputs[: 1 if product.has_weight else 2]
        )
        for product in chosen
    }
    layers = {product.inputs[1]: product.layer for product in products if product.has_weight}
    traced, smoothed, made = graphs
    return Carried(
        reaches=reaches,
        weights=_stored(made, chosen),
        smoothed=_changed(traced, smoothed, layers),
        corrected=_changed(smoothed, made, layers),
    )


def _changed(one: ModelProto, other: ModelProto, layers: Mapping[str, str]) -> dict[str, NDArray[np.float32]]:
    """Parameters that both graphs have and that differ, as the other has them."""
    before, after = _constants(one), _constants(other)
    return {  # norms and biases keep the module's names
        f"{layers[name]}.weight" if name in layers else name: after[name].T  # of a vector, itself
        for name in before
        if name in after and not np.array_equal(before[name], after[name])
    }


def _stored(made: ModelProto, chosen: Sequence[Product]) -> dict[str, Stored]:
    constants = {tensor.name: tensor for tensor in made.graph.initializer}
    nodes = {node.name: node for node in made.graph.node}
    made_by = {output: node for node in made.graph.node for output in node.output}
    found = {}
    for product in chosen:
        if product.has_weight:
            names = made_by[nodes[product.node].input[1]].input[:2]
            whole_CO, scale_O = (numpy_helper.to_array(constants[name]) for name in names)
            found[product.layer] = Stored(whole_CO=whole_CO, scale_O=scale_O)
    return found


def _constants(model: ModelProto) -> dict[str, NDArray[np.float32]]:
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
