"""What is really INT8 in a graph with Q/DQ: read back from the file, not believed of the tool that wrote it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import onnx

from vqrae.calibration.layers import Product
from vqrae.calibration.plan import Activations
from vqrae.runtimes.errors import RuntimeUnavailable


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
