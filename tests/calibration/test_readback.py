"""What is found INT8 in a file, compared with what was asked for, and weighed."""

from __future__ import annotations

from pathlib import Path

import pytest

from vqrae.calibration.layers import Product, check_int8, int8_layers, int8_share, matrix_products
from vqrae.runtimes.errors import RuntimeUnavailable


def test_a_graph_in_float_has_no_int8_layers(encode_graph: Path, products: tuple[Product, ...]) -> None:
    assert int8_layers(encode_graph, products) == []


@pytest.mark.parametrize(
    ("found", "asked", "words"),
    [
        (["a"], ["a", "b"], "encode.onnx b: got float; expected int8, as planned"),
        ([], ["b", "a", "c"], "encode.onnx a and 2 others: got float; expected int8, as planned"),
        (["a", "b"], ["a"], "encode.onnx b: got int8; expected float, as planned"),
        (["b", "a", "c"], [], "encode.onnx a and 2 others: got int8; expected float, as planned"),
        (["a"], ["b"], "encode.onnx b: got float; expected int8, as planned"),
    ],
)
def test_a_layer_of_another_precision_than_planned_is_named(found: list[str], asked: list[str], words: str) -> None:
    with pytest.raises(RuntimeUnavailable) as caught:
        check_int8("encode.onnx", found, asked)
    assert str(caught.value) == words


def test_what_is_as_planned_passes_in_any_order() -> None:
    check_int8("encode.onnx", ["a", "b"], ["b", "a"])
    check_int8("encode.onnx", [], [])


def test_the_share_is_of_multiplications(encode_graph: Path, decode_graph: Path) -> None:
    products = (*matrix_products(encode_graph), *matrix_products(decode_graph))
    layers = [product.layer for product in products]
    assert int8_share(products, layers) == 1
    assert int8_share(products, []) == 0
    ends = 16 * 32 * (192 + 64 + 192)  # 16 tokens, 32 wide: from patches, to codes, to patches
    block = 16 * 32 * (96 + 32 + 64 + 64) + 2 * 16 * 16 * 32
    assert int8_share(products, ["encoder.blocks.1.up"]) == pytest.approx(16 * 32 * 64 / (ends + 4 * block))
    with_weights = [product.layer for product in products if product.has_weight and "blocks" in product.layer]
    assert int8_share(products, with_weights) == pytest.approx(4 * 16 * 32 * 256 / (ends + 4 * block))
