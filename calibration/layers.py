"""The matrix products of a traced graph: what INT8 is decided for, by the names that the model's layers have."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

import onnx
from onnx import NodeProto

LAYER_METADATA = "pkg.torch.onnx.name_scopes"
"""Names a node's layer, in the graphs that PyTorch's exporter writes."""
Group = Literal["patch embedding", "attention", "MLP", "search", "pixels"]
GROUPS: Mapping[str, Group] = {
    "patch_embedding": "patch embedding",
    "gate": "MLP",
    "up": "MLP",
    "down": "MLP",
    "scores": "search",
    "head": "pixels",
}
"""Last part of a layer's name -> its group; the others are attention's."""
CONVERSIONS = ("DequantizeLinear", "Cast", "Mul", "Div", "Sub", "Concat", "Add")
"""Operators between a weight that is stored in fewer bytes, and the product that reads it."""
ATTENTION = ("queries_keys", "weights_values")
"""The two products inside attention, in the order that they run in."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """One matrix product."""

    layer: str
    """The model's layer, such as `encoder.blocks.0.out`; of the two products inside attention, which have no weights,
    `encoder.blocks.0.attention.queries_keys` and `encoder.blocks.0.attention.weights_values`."""
    node: str
    """Its node in the graph."""
    group: Group
    inputs: tuple[str, str]
    """The two tensors; the second is the weight, where there is one."""
    has_weight: bool
    multiplications: int
    """For one image: one for each multiply-accumulate."""


def node_layers(path: Path) -> dict[str, str]:
    """Which layer of the model, such as `encoder.blocks.0.out`, each node of a traced graph came from, where known."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    return {node.name: layer for node in nodes if (layer := _layer(node))}


def matrix_products(path: Path) -> tuple[Product, ...]:
    """The matrix products of a traced graph, with Q/DQ or without, in the order that they run in."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False)).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    shapes = {value.name: [axis.dim_value or 1 for axis in value.type.tensor_type.shape.dim] for value in values}
    weights = {weight.name for weight in graph.initializer}
    for node in graph.node:
        if node.op_type in CONVERSIONS and weights.issuperset(node.input):
            weights.add(node.output[0])
    products: list[Product] = []
    seen: Counter[str] = Counter()  # products inside the attention of a block
    for node in graph.node:
        if node.op_type != "MatMul":
            continue
        layer, has_weight = _layer(node) or node.name, node.input[1] in weights
        if not has_weight:
            block = layer
            layer = f"{block}.attention.{ATTENTION[seen[block]]}"
            seen[block] += 1
        products.append(
            Product(
                layer=layer,
                node=node.name,
                group=GROUPS.get(layer.rpartition(".")[2], "attention"),
                inputs=(node.input[0], node.input[1]),
                has_weight=has_weight,
                multiplications=prod(shapes[node.output[0]]) * shapes[node.input[0]][-1],  # an open batch counts as 1
            )
        )
    return tuple(products)


def _layer(node: NodeProto) -> str | None:
    scopes = next((prop.value for prop in node.metadata_props if prop.key == LAYER_METADATA), "['']")
    *modules, _ = ast.literal_eval(scopes)  # the last one is the operation itself
    return modules[-1] if modules and modules[-1] else None
