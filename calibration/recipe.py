"""What INT8 graphs are made of, by the model's own layers, as files: for a format that is not made from ONNX."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from vqrae.calibration.layers import Product
from vqrae.calibration.plan import PLAN_FILE, PrecisionPlan
from vqrae.runtimes.json_text import Record

if TYPE_CHECKING:
    from vqrae.calibration.ranges import Range  # brings ONNX Runtime


@dataclass(frozen=True, kw_only=True)
class StoredWeight:
    """A weight in INT8."""

    whole_CO: NDArray[np.int8]
    scale_O: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class GraphRecipe:
    """Of one graph and one plan."""

    products: tuple[Product, ...]
    """All, in the order that they run in."""
    reaches: Mapping[str, tuple[float, ...]]
    """Layer at INT8 -> largest magnitude of each of its inputs that is no weight; () where these stay float."""
    weights: Mapping[str, StoredWeight]
    """Layer at INT8 -> its weight as calibration rounded it; to the nearest where there is none."""
    smoothing: Mapping[str, NDArray[np.float32]]
    """The module's parameters that smoothing changed -> their values, laid out as in PyTorch."""
    corrections: Mapping[str, NDArray[np.float32]]
    """Of those and of others, what was moved because weights were rounded: biases, and weights that stay float."""

    @classmethod
    def of_weights(cls, products: Sequence[Product], chosen: Sequence[Product]) -> Self:
        """Of a plan that stores the weights of `chosen`, and observes nothing."""
        reaches: dict[str, tuple[float, ...]] = {product.layer: () for product in chosen}
        return cls(products=tuple(products), reaches=reaches, weights={}, smoothing={}, corrections={})

    @property
    def parameters(self) -> dict[str, NDArray[np.float32]]:
        """The module's parameters that are other than they were."""
        return {**self.smoothing, **self.corrections}

    def with_bytes_times(self, scale: float) -> GraphRecipe:
        """The same of a graph that multiplies bytes by a factor before its first product, whose weights make up for it.

        What was observed are bytes as they are.
        """
        first = [product.layer for product in self.products if product.role == "patch"]
        chosen = [layer for layer in first if layer in self.reaches]
        reaches = {layer: tuple(reach * scale for reach in self.reaches[layer]) for layer in chosen}
        weights = {
            layer: replace(self.weights[layer], scale_O=(self.weights[layer].scale_O / scale).astype(np.float32))
            for layer in chosen
            if layer in self.weights
        }
        return replace(self, reaches={**self.reaches, **reaches}, weights={**self.weights, **weights})

    def write(self, folder: Path, name: str) -> None:
        """Write it as `<name>.json` and `<name>.npz`."""
        facts = _Facts(products=self.products, reaches=dict(self.reaches))
        (folder / f"{name}.json").write_text(facts.model_dump_json(), encoding="utf-8")
        kinds: dict[str, Mapping[str, NDArray[Any]]] = {
            "whole": {layer: weight.whole_CO for layer, weight in self.weights.items()},
            "scale": {layer: weight.scale_O for layer, weight in self.weights.items()},
            "smoothing": self.smoothing,
            "corrections": self.corrections,
        }
        arrays = {f"{kind}/{key}": array for kind, of_kind in kinds.items() for key, array in of_kind.items()}
        np.savez(folder / f"{name}.npz", allow_pickle=False, **arrays)

    @classmethod
    def read(cls, folder: Path, name: str) -> Self:
        """What `write` wrote."""
        facts = _Facts.model_validate_json((folder / f"{name}.json").read_bytes())
        kinds: dict[str, dict[str, NDArray[Any]]] = {"whole": {}, "scale": {}, "smoothing": {}, "corrections": {}}
        with np.load(folder / f"{name}.npz") as arrays:
            for place in arrays.files:
                kind, _, key = place.partition("/")
                kinds[kind][key] = arrays[place]
        return cls(
            products=facts.products,
            reaches=facts.reaches,
            weights={
                layer: StoredWeight(whole_CO=whole, scale_O=kinds["scale"][layer])
                for layer, whole in kinds["whole"].items()
            },
            smoothing=kinds["smoothing"],
            corrections=kinds["corrections"],
        )


class _Facts(Record):
    """What of a graph's recipe is no array."""

    products: tuple[Product, ...]
    reaches: dict[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Int8Recipe:
    """Of a tokenizer: its plan, and what each graph is made of."""

    plan: PrecisionPlan
    graphs: Mapping[str, GraphRecipe]

    @property
    def half(self) -> bool:
        """Whether what stays float is what an FP16 bundle has, its large FP32 tables and weights stored as FP16."""
        return self.plan.storage == "compact"

    def write(self, folder: Path) -> None:
        """Write it into a folder that exists."""
        self.plan.write(folder / PLAN_FILE)
        for name, graph in self.graphs.items():
            graph.write(folder, name)

    @classmethod
    def read(cls, folder: Path, names: Collection[str]) -> Self:
        """What `write` wrote, of the graphs with these names."""
        graphs = {name: GraphRecipe.read(folder, name) for name in names}
        return cls(plan=PrecisionPlan.read(folder / PLAN_FILE), graphs=graphs)


def graph_recipe(
    graphs: tuple[ModelProto, ModelProto, ModelProto],
    products: Sequence[Product],
    chosen: Sequence[Product],
    ranges: Mapping[str, Range],
) -> GraphRecipe:
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
    return GraphRecipe(
        products=tuple(products),
        reaches=reaches,
        weights=_stored(made, chosen),
        smoothing=_changed(traced, smoothed, layers),
        corrections=_changed(smoothed, made, layers),
    )


def _changed(one: ModelProto, other: ModelProto, layers: Mapping[str, str]) -> dict[str, NDArray[np.float32]]:
    """Parameters that both graphs have and that differ, as the other has them."""
    before, after = _constants(one), _constants(other)
    return {  # norms and biases keep the module's names
        f"{layers[name]}.weight" if name in layers else name: after[name].T  # of a vector, itself
        for name in before
        if name in after and not np.array_equal(before[name], after[name])
    }


def _stored(made: ModelProto, chosen: Sequence[Product]) -> dict[str, StoredWeight]:
    constants = {tensor.name: tensor for tensor in made.graph.initializer}
    nodes = {node.name: node for node in made.graph.node}
    made_by = {output: node for node in made.graph.node for output in node.output}
    found = {}
    for product in chosen:
        if product.has_weight:
            names = made_by[nodes[product.node].input[1]].input[:2]
            whole_CO, scale_O = (numpy_helper.to_array(constants[name]) for name in names)
            found[product.layer] = StoredWeight(whole_CO=whole_CO, scale_O=scale_O)
    return found


def _constants(model: ModelProto) -> dict[str, NDArray[np.float32]]:
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
