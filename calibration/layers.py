"""The matrix products of a traced graph: what INT8 is decided for, by the names that the model's layers have.

And which of them are really INT8: read back from the file, not believed of the tool that wrote it.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal, get_args

import onnx
from onnx import NodeProto

from vqrae.calibration.plan import Activations
from vqrae.runtimes.errors import RuntimeUnavailable, UsageError

LAYER_METADATA = "pkg.torch.onnx.name_scopes"
"""Names a node's layer, in the graphs that PyTorch's exporter writes."""
Role = Literal["scores", "patch", "head", "attention", "mlp", "conv"]
"""What a layer is to a tokenizer, as whoever wrote its module declares; nothing is guessed from names."""
GROUPS: Mapping[Role, str] = {
    "patch": "patch embedding",
    "attention": "attention",
    "mlp": "MLP",
    "scores": "search",
    "head": "pixels",
    "conv": "convolutions",
}
"""Role -> what such layers are called where they are told of together."""
CONVERSIONS = ("DequantizeLinear", "Cast", "Mul", "Div", "Sub", "Concat", "Add")
"""Operators between a weight that is stored in fewer bytes, and the product that reads it."""
INSIDE = ("queries_keys", "weights_values")
"""The two products inside attention, in the order that they run in; others that one module has without weights are
called by their number."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """One matrix product."""

    layer: str
    """The model's layer, such as `encoder.blocks.0.out`; of the two products inside attention, which have no weights,
    `encoder.blocks.0.attention.queries_keys` and `encoder.blocks.0.attention.weights_values`."""
    node: str
    """Its node in the graph."""
    role: Role | None
    """Of the module that multiplies; None where nobody was asked, as of a graph that is only read."""
    inputs: tuple[str, str]
    """The two tensors; the second is the weight, where there is one."""
    has_weight: bool
    multiplications: int
    """For one image: one for each multiply-accumulate."""

    @property
    def group(self) -> str:
        """What it is told of with."""
        return GROUPS[self.role] if self.role else ""

    @property
    def module(self) -> str:
        """The module that multiplies: the layer, but for what is inside attention, the module that holds it."""
        return self.layer if self.has_weight else self.layer.rpartition(".attention.")[0]

    @property
    def kind(self) -> str:
        """What is decided for all such products at once: the role, or the name of what has no weight."""
        return self.role or "" if self.has_weight else self.layer.rpartition(".")[2]


def node_layers(path: Path) -> dict[str, str]:
    """Which layer of the model, such as `encoder.blocks.0.out`, each node of a traced graph came from, where known."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    return {node.name: layer for node in nodes if (layer := _layer(node))}


def matrix_products(path: Path, roles: Mapping[str, Role] | None = None) -> tuple[Product, ...]:
    """The matrix products of a traced graph, with Q/DQ or without, in the order that they run in.

    Args:
        path: of the graph.
        roles: module of the model -> its role; None of a graph that is only read.

    Raises:
        UsageError: a module that multiplies has no role.
    """
    graph = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False)).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    shapes = {value.name: [axis.dim_value or 1 for axis in value.type.tensor_type.shape.dim] for value in values}
    weights = {weight.name for weight in graph.initializer}
    for node in graph.node:
        if node.op_type in CONVERSIONS and weights.issuperset(node.input):
            weights.add(node.output[0])
    products: list[Product] = []
    seen: Counter[str] = Counter()  # products without a weight in a module
    for node in graph.node:
        if node.op_type != "MatMul":
            continue
        module, has_weight = _layer(node) or node.name, node.input[1] in weights
        layer = module
        if not has_weight:
            number = seen[module]
            layer = f"{module}.attention.{INSIDE[number] if number < len(INSIDE) else number}"
            seen[module] += 1
        products.append(
            Product(
                layer=layer,
                node=node.name,
                role=None if roles is None else _declared(module, roles),
                inputs=(node.input[0], node.input[1]),
                has_weight=has_weight,
                multiplications=prod(shapes[node.output[0]]) * shapes[node.input[0]][-1],  # an open batch counts as 1
            )
        )
    return tuple(products)


def _declared(module: str, roles: Mapping[str, Role]) -> Role:
    if module not in roles:
        remedy = f"declare it in the graph's plan: {', '.join(get_args(Role))}"
        raise UsageError(f"layer {module} at INT8", got="no role", expected="one", remedy=remedy)
    return roles[module]


def int8_layers(path: Path, products: Sequence[Product], activations: Activations = "int8") -> list[str]:
    """The layers whose matrix product takes both inputs from a DequantizeLinear.

    Args:
        path: an ONNX graph with Q/DQ.
        products: those of the graph that it was made of; nodes keep their names.
        activations: where they stay float, the layers that take their weight alone from one.
    """
    wanted = [activations == "int8", True]
    graph = onnx.load(path, load_external_data=False).graph
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    layers = {product.node: product.layer for product in products}
    return [
        layers[node.name]
        for node in graph.node
        if node.op_type == "MatMul" and node.name in layers and [name in dequantized for name in node.input] == wanted
    ]


def check_int8(subject: str, found: Collection[str], asked: Collection[str]) -> None:
    """Compare what is INT8 with what a plan asks for.

    Raises:
        RuntimeUnavailable: a layer became another precision.
    """
    for absent, got, expected in (
        (set(asked) - set(found), "float", "int8, as planned"),
        (set(found) - set(asked), "int8", "float, as planned"),
    ):
        if absent:
            more = f" and {len(absent) - 1} others" if len(absent) > 1 else ""
            raise RuntimeUnavailable(f"{subject} {sorted(absent)[0]}{more}", got=got, expected=expected)


def int8_share(products: Sequence[Product], layers: Collection[str]) -> float:
    """Share of the multiplications of one image that lie in these layers."""
    whole = sum(product.multiplications for product in products)
    return sum(product.multiplications for product in products if product.layer in layers) / whole


def _layer(node: NodeProto) -> str | None:
    scopes = next((prop.value for prop in node.metadata_props if prop.key == LAYER_METADATA), "['']")
    *modules, _ = ast.literal_eval(scopes)  # the last one is the operation itself
    return modules[-1] if modules and modules[-1] else None
