"""ONNX graphs of a few nodes, so that a test can say by hand what they compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

Shape = Sequence[int | str]


def save_graph(
    path: Path,
    nodes: Sequence[NodeProto],
    weights: Mapping[str, NDArray[np.float32]],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
) -> Path:
    """Write a checked graph; its inputs and outputs are float32, and an axis may have a name."""

    def infos(tensors: Mapping[str, Shape]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in tensors.items()]

    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, path.stem, infos(inputs), infos(outputs), constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def weights_of(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """Every weight by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
