"""What calibration found, in terms of the model's own layers, for a format that is not made from the ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from vqrae.calibration.layers import Product
from vqrae.calibration.ranges import Range


@dataclass(frozen=True, kw_only=True)
class Carried:
    """Of one graph and one plan."""

    reaches: dict[str, tuple[float, ...]]
    """Layer at INT8 -> largest magnitude of each of its inputs that is no weight."""
    parameters: dict[str, NDArray[np.float32]]
    """The module's parameters that smoothing changed -> their values, laid out as in PyTorch."""


def carried(
    traced: Path, smoothed: Path, weighted: Sequence[Product], chosen: Sequence[Product], ranges: Mapping[str, Range]
) -> Carried:
    """Read the ranges by layer, and the weights in which two graphs differ.

    Args:
        traced: the graph as it was traced.
        smoothed: the same, or with SmoothQuant's factors folded in.
        weighted: the products that have weights.
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
    if traced == smoothed:
        return Carried(reaches=reaches, parameters={})
    before, after = (_constants(path) for path in (traced, smoothed))
    layers = {product.inputs[1]: product.layer for product in weighted}  # a norm's constants keep the module's names
    parameters = {}
    for name, values in after.items():
        if not np.array_equal(values, before[name]):
            parameters[f"{layers[name]}.weight" if name in layers else name] = values.T  # of a vector, itself
    return Carried(reaches=reaches, parameters=parameters)


def _constants(path: Path) -> dict[str, NDArray[np.float32]]:
    model = onnx.load(path)
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
