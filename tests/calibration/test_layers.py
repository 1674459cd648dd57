"""The products of the small model's graphs against a calculation by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hand_made_graphs import save_graph
from numpy.typing import NDArray
from onnx import NodeProto, helper
from tiny_models import PATCH, SIZE, WIDTH, roles

from vqrae.calibration.layers import LAYER_METADATA, Product, Role, matrix_products, node_layers
from vqrae.runtimes.errors import UsageError

TOKENS, HEADS, MLP, CODES = (SIZE // PATCH) ** 2, 4, 64, 64
PIXELS = PATCH * PATCH * 3

Row = tuple[str, str, bool, int]


def block(name: str) -> list[Row]:
    """The products of a transformer block, in the order that they run in."""
    head = WIDTH // HEADS
    return [
        (f"{name}.query_key_value", "attention", True, TOKENS * WIDTH * 3 * WIDTH),
        (f"{name}.attention.queries_keys", "attention", False, HEADS * TOKENS * head * TOKENS),
        (f"{name}.attention.weights_values", "attention", False, HEADS * TOKENS * TOKENS * head),
        (f"{name}.out", "attention", True, TOKENS * WIDTH * WIDTH),
        (f"{name}.up", "MLP", True, TOKENS * WIDTH * MLP),
        (f"{name}.down", "MLP", True, TOKENS * MLP * WIDTH),
    ]


def rows(products: tuple[Product, ...]) -> list[Row]:
    return [(product.layer, product.group, product.has_weight, product.multiplications) for product in products]


def test_the_products_of_encode(encode_graph: Path) -> None:
    assert rows(matrix_products(encode_graph, roles())) == [
        ("encoder.patch_embedding", "patch embedding", True, TOKENS * PIXELS * WIDTH),
        *block("encoder.blocks.0"),
        *block("encoder.blocks.1"),
        ("quantizer.scores", "search", True, TOKENS * WIDTH * CODES),
    ]


def test_the_products_of_decode(decode_graph: Path) -> None:
    assert rows(matrix_products(decode_graph, roles())) == [
        *block("decoder.blocks.0"),
        *block("decoder.blocks.1"),
        ("decoder.head", "pixels", True, TOKENS * WIDTH * PIXELS),
    ]


def test_products_name_their_nodes_and_layers_once(encode_graph: Path, decode_graph: Path) -> None:
    found = [matrix_products(path) for path in (encode_graph, decode_graph)]
    for products in found:
        assert len({product.node for product in products}) == len(products)
    layers = [product.layer for products in found for product in products]
    assert len(set(layers)) == len(layers)


def test_a_node_s_layer_is_the_product_s(encode_graph: Path, products: tuple[Product, ...]) -> None:
    layers = node_layers(encode_graph)
    for product in products:
        if product.has_weight:
            assert layers[product.node] == product.layer
        else:
            assert layers[product.node] == product.layer.partition(".attention.")[0]


def product_of(x: str, y: str, output: str, *, scopes: str | None = None, op: str = "MatMul") -> NodeProto:
    node = helper.make_node(op, [x, y], [output], name=f"node_{output}")
    if scopes is not None:
        node.metadata_props.add(key=LAYER_METADATA, value=scopes)
    return node


def weight(*shape: int) -> NDArray[np.float32]:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("scopes", "layer", "role"),
    [
        ("['', 'blocks', 'blocks.0.gate', 'matmul']", "blocks.0.gate", "mlp"),
        ("['', 'matmul']", "node_y", "conv"),
        (None, "node_y", "patch"),
    ],
)
def test_a_layer_s_name_and_role(tmp_path: Path, scopes: str | None, layer: str, role: Role) -> None:
    nodes = [product_of("x", "w", "y", scopes=scopes), product_of("y", "y", "z", op="Add")]
    path = save_graph(tmp_path / "g.onnx", nodes, {"w": weight(4, 5)}, {"x": ("b", 3, 4)}, {"z": ("b", 3, 5)})
    (product,) = matrix_products(path, {layer: role})
    assert (product.layer, product.role, product.inputs) == (layer, role, ("x", "w"))
    assert matrix_products(path)[0].role is None
    with pytest.raises(UsageError, match=rf"layer {layer} at INT8: got no role; expected one; declare it in"):
        matrix_products(path, {})


def test_a_fixed_batch_counts_its_images(tmp_path: Path) -> None:
    for name, batch, times in (("open", "b", 1), ("fixed", 2, 2)):
        nodes = [product_of("x", "w", "y")]
        path = save_graph(
            tmp_path / f"{name}.onnx", nodes, {"w": weight(4, 5)}, {"x": (batch, 3, 4)}, {"y": (batch, 3, 5)}
        )
        assert matrix_products(path)[0].multiplications == times * 3 * 4 * 5


def test_the_two_products_of_an_attention_are_told_apart(tmp_path: Path) -> None:
    scopes = "['', 'blocks.0', 'matmul']"
    nodes = [product_of("q", "k", "s", scopes=scopes), product_of("s", "v", "y", scopes=scopes)]
    inputs = {"q": ("b", 3, 4), "k": ("b", 4, 3), "v": ("b", 3, 4)}
    products = matrix_products(save_graph(tmp_path / "g.onnx", nodes, {}, inputs, {"y": ("b", 3, 4)}))
    assert [product.layer for product in products] == [
        "blocks.0.attention.queries_keys",
        "blocks.0.attention.weights_values",
    ]
    assert [product.inputs for product in products] == [("q", "k"), ("s", "v")]


def test_further_products_of_a_module_have_a_number(tmp_path: Path) -> None:
    scopes = "['', 'distances', 'matmul']"
    nodes = [product_of(*names, scopes=scopes) for names in (("q", "k", "s"), ("s", "q", "t"), ("t", "k", "y"))]
    inputs = {"q": ("b", 3, 3), "k": ("b", 3, 3)}
    path = save_graph(tmp_path / "g.onnx", nodes, {}, inputs, {"y": ("b", 3, 3)})
    products = matrix_products(path, {"distances": "scores"})
    assert [product.kind for product in products] == ["queries_keys", "weights_values", "2"]
    assert {(product.module, product.role) for product in products} == {("distances", "scores")}
