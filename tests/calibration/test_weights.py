"""Weights stored in INT8: near, small, and multiplied as floats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hand_made_graphs import save_graph, weights_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper

from vqrae.calibration.layers import Product, matrix_products
from vqrae.calibration.readback import int8_layers
from vqrae.calibration.weights import REACH, int8_from_float, store_in_int8

NUMBERS = st.floats(-1e3, 1e3, width=32).filter(lambda value: value == 0 or abs(value) > 1e-3)


@given(hnp.arrays(np.float32, (5, 3), elements=NUMBERS))
def test_a_weight_moves_by_half_a_step_at_most(weight_CO: np.ndarray) -> None:
    stored_CO, scale_O = int8_from_float(weight_CO)
    assert (stored_CO.dtype, scale_O.dtype, scale_O.shape) == (np.int8, np.float32, (3,))
    assert np.abs(stored_CO.astype(int)).max() <= REACH
    assert (np.abs(stored_CO * scale_O - weight_CO) <= scale_O * 0.501).all()
    assert not stored_CO[weight_CO == 0].any(), "zero stays zero"


def test_a_channel_of_zeros_has_a_scale_all_the_same() -> None:
    stored, scale = int8_from_float(np.array([[0, 2], [0, -1]], np.float32))
    assert stored.tolist() == [[0, 127], [0, -64]]
    assert scale == pytest.approx([1, 2 / 127])


def test_the_graph_holds_int8_in_place_of_the_float_weight(
    encode_graph: Path, products: tuple[Product, ...], tmp_path: Path
) -> None:
    chosen = [product for product in products if product.layer.endswith(".up")]
    model = onnx.load(encode_graph)
    before = weights_of(model)
    store_in_int8(model, chosen)
    path = tmp_path / "graph.onnx"
    onnx.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    after = weights_of(onnx.load(path))
    for product in chosen:
        name = product.inputs[1]
        assert name not in after
        np.testing.assert_allclose(
            after[f"{name}_int8"] * after[f"{name}_scale"], before[name], atol=after[f"{name}_scale"].max() * 0.501
        )
    assert before.keys() - after.keys() == {product.inputs[1] for product in chosen}, "the others are as they were"
    assert int8_layers(path, products, "float") == [product.layer for product in chosen]
    assert int8_layers(path, products) == [], "INT8 multiplies nothing"
    assert [product.layer for product in matrix_products(path)] == [product.layer for product in products]


def test_a_weight_that_two_products_share_is_stored_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("MatMul", ["a", "w"], ["y"], name="second"),
    ]
    weights = {"w": np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)}
    path = save_graph(tmp_path / "graph.onnx", nodes, weights, {"x": ("b", 4)}, {"y": ("b", 4)})
    model = onnx.load(path)
    store_in_int8(model, matrix_products(path))
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear", "MatMul", "MatMul"]
