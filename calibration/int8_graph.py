"""From a traced FP32 graph and a plan to an INT8 graph: smoothing, ranges, and pairs of Q/DQ around matrix products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from vqrae.calibration.bias import correct_biases
from vqrae.calibration.layers import Product, Role, matrix_products
from vqrae.calibration.plan import PrecisionPlan, RangeMethod, Scheme
from vqrae.calibration.ranges import Range, activation_ranges
from vqrae.calibration.recipe import GraphRecipe, graph_recipe
from vqrae.calibration.rounding import Rounding, Shelf
from vqrae.calibration.smoothing import smooth
from vqrae.calibration.weights import LARGE
from vqrae.runtimes.closing import Closing


class Int8Graph(Closing):
    """Makes INT8 graphs of one traced graph. What one plan needs to be observed is kept for the next."""

    def __init__(self, path: Path, inputs: NDArray[Any], roles: Mapping[str, Role]) -> None:
        """Read a graph.

        Args:
            path: a traced FP32 graph.
            inputs: calibration images uint8 (B, H, W, 3), or indices int32 (B, h, w).
            roles: module of the model -> what it is.

        Raises:
            UsageError: a module that multiplies has no role.
        """
        self.products = matrix_products(path, roles)
        self._path = path
        constants = onnx.load(path, load_external_data=False).graph.initializer
        self._sizes = {tensor.name: prod(tensor.dims) for tensor in constants}
        self._inputs = inputs
        self._temporary = TemporaryDirectory(prefix="vqrae-int8-")
        self._shelf = Shelf(Path(self._temporary.name))
        self._smoothed: dict[float, Path] = {}
        self._roundings: dict[Path, Rounding] = {}
        self._observed: dict[tuple[Path, RangeMethod, bool], dict[str, Range]] = {}

    def write(self, plan: PrecisionPlan, scheme: Scheme, path: Path) -> None:
        """Write the graph of a plan, INT8 where it says so; the same images and plan give the same bytes.

        Raises:
            CheckpointError: an activation holds no numbers, or only one.
        """
        model = self._made(plan, scheme)
        del model.graph.value_info[:]  # shapes that every reader infers
        onnx.save(model, path)
        onnx.checker.check_model(str(path), full_check=True)

    def recipe(self, plan: PrecisionPlan) -> GraphRecipe:
        """What a plan's INT8 is made of, in terms of the model's layers.

        Raises:
            CheckpointError: see `write`.
        """
        source, ranges = self._observe(plan)
        graphs = onnx.load(self._path), onnx.load(source), self._made(plan, "symmetric")
        return graph_recipe(graphs, self.products, plan.int8(self.products), ranges)

    def close(self) -> None:
        """Forget what was observed, and delete the smoothed graphs."""
        self._observed.clear()
        self._roundings.clear()
        self._temporary.cleanup()

    def _made(self, plan: PrecisionPlan, scheme: Scheme) -> ModelProto:
        chosen, kept = plan.int8(self.products), self._kept(plan)
        source, ranges = self._observe(plan)
        model = onnx.load(source)
        weights = _weights(model, chosen)
        model = _with_pairs(model, chosen, ranges, scheme)
        rounding = self._roundings.setdefault(source, Rounding(self._shelf))
        errors = rounding.round_pairs(model, chosen, weights, ranges)
        errors |= {product.inputs[1]: rounding.store(model, product, ranges, scheme) for product in kept}
        rounded = [product for product in (*chosen, *kept) if product.has_weight]
        correct_biases(model, rounded, errors, {name: found.mean_C for name, found in ranges.items()})
        return model

    def _observe(self, plan: PrecisionPlan) -> tuple[Path, Mapping[str, Range]]:
        """The graph that a plan is applied to, and what goes into its products at INT8."""
        source = self._path if plan.smoothing is None else self._smooth(plan.smoothing)
        return source, self._ranges(source, [*plan.int8(self.products), *self._kept(plan)], plan.ranges)

    def _kept(self, plan: PrecisionPlan) -> list[Product]:
        """The products that stay float, whose weights are worth fewer bits.

        Not the patch embedding: where a graph computes in FP16, its weights are of another scale.
        """
        return [
            product
            for product in self.products
            if plan.storage == "compact"
            and plan.layers[product.layer] == "float"
            and product.has_weight
            and product.role != "patch"
            and self._sizes[product.inputs[1]] >= LARGE
        ]

    def _smooth(self, alpha: float) -> Path:
        """The graph with even channels: one for all plans, since it computes the same."""
        if alpha not in self._smoothed:
            weighted = [product for product in self.products if product.has_weight]
            model, path = onnx.load(self._path), Path(self._temporary.name) / f"{len(self._smoothed)}.onnx"
            smooth(model, weighted, self._ranges(self._path, weighted, "minmax", covariances=False), alpha)
            onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")
            self._smoothed[alpha] = path
        return self._smoothed[alpha]

    def _ranges(
        self, path: Path, products: Sequence[Product], method: RangeMethod, *, covariances: bool = True
    ) -> Mapping[str, Range]:
        """Of every input of these products that is no weight."""
        observed = self._observed.setdefault((path, method, covariances), {})
        absent = {
            tensor: product.layer
            for product in products
            for tensor in product.inputs[: 1 if product.has_weight else 2]
            if tensor not in observed
        }
        if absent:
            found = activation_ranges(path, absent, self._inputs, method, covariances=covariances)
            observed |= {tensor: self._shelved(one) for tensor, one in found.items()}
        return observed

    def _shelved(self, found: Range) -> Range:
        if found.covariance_CC is None:
            return found
        return replace(found, covariance_CC=self._shelf.put(found.covariance_CC))


def _part_from_outputs(model: ModelProto, products: Sequence[Product], ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Give products that read an output of the graph a copy to read: what leaves the graph is not to be rounded.

    Returns:
        The ranges of the copies.
    """
    outputs = {output.name for output in model.graph.output}
    nodes = {node.name: node for node in model.graph.node}
    found = {}
    for product in products:
        tensor = product.inputs[0]
        if tensor in outputs:
            copy = f"{tensor}_read_by_{product.node}"
            model.graph.node.append(helper.make_node("Identity", [tensor], [copy], name=copy))
            nodes[product.node].input[0] = copy
            found[copy] = ranges[tensor]
    return found


def _with_pairs(
    model: ModelProto, products: Sequence[Product], ranges: Mapping[str, Range], scheme: Scheme
) -> ModelProto:
    """Q/DQ around the inputs of these products: weights int8 for each output channel, activations as a whole."""
    if not products:
        return model  # onnxruntime takes no nodes for all nodes
    ranges = {**ranges, **_part_from_outputs(model, products, ranges)}
    limits = {
        name: TensorData(lowest=np.float32(found.low), highest=np.float32(found.high)) for name, found in ranges.items()
    }
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if scheme == "symmetric" else QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
        nodes_to_quantize=[product.node for product in products],
        nodes_to_exclude=[],
        op_types_to_quantize=["MatMul"],
        extra_options={
            "ActivationSymmetric": scheme == "symmetric",
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": ["MatMul"],  # results are added to in float
            "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
            "TensorQuantOverrides": {
                name: [{"quant_type": QuantType.QInt8, "symmetric": True}] for name in _around_zero(products, ranges)
            },
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model


def _around_zero(products: Sequence[Product], ranges: Mapping[str, Range]) -> set[str]:
    """What goes into products of two activations and has a sign: queries, keys, values.

    OpenVINO keeps attention in INT8, in one kernel, only where neither has a zero point.
    """
    return {name for product in products if not product.has_weight for name in product.inputs if ranges[name].low < 0}


def _weights(model: ModelProto, products: Sequence[Product]) -> dict[str, NDArray[np.float32]]:
    named = {product.inputs[1] for product in products if product.has_weight}
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name in named}
