"""Weights stored in INT8: near, small, and multiplied as floats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hand_made_graphs import save_graph, weights_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper

from vqrae.calibration.layers import Product, int8_layers, matrix_products
from vqrae.calibration.weights import LARGEST, int8_from_float, store_in_half, store_in_int8, store_in_whole_numbers

NUMBERS = st.floats(-1e3, 1e3, width=32).filter(lambda value: value == 0 or abs(value) > 1e-3)


@given(hnp.arrays(np.float32, (5, 3), elements=NUMBERS))
def test_a_weight_moves_by_half_a_step_at_most(weight_CO: np.ndarray) -> None:
    stored_CO, scale_O = int8_from_float(weight_CO)
    assert (stored_CO.dtype, scale_O.dtype, scale_O.shape) == (np.int8, np.float32, (3,))
    assert np.abs(stored_CO.astype(int)).max() <= LARGEST[8]
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


def half(model: onnx.ModelProto) -> None:
    store_in_half(model, least=2048)


def whole(model: onnx.ModelProto) -> None:
    store_in_whole_numbers(model, least=2048)


@pytest.mark.parametrize(("store", "suffix", "steps"), [(half, "half", 2**11), (whole, "stored", 2**16)])
def test_what_is_large_is_stored_in_half_of_the_bytes(
    store: Callable[[onnx.ModelProto], None],
    suffix: str,
    steps: int,
    encode_graph: Path,
    images: np.ndarray,
    tmp_path: Path,
) -> None:
    """The graph computes what it would with the rounded numbers."""
    model = onnx.load(encode_graph)
    before = weights_of(model)
    store(model)
    onnx.save(model, tmp_path / "stored.onnx")
    onnx.checker.check_model(str(tmp_path / "stored.onnx"), full_check=True)
    after = weights_of(onnx.load(tmp_path / "stored.onnx"))
    large = {name for name, value in before.items() if value.size >= 2048 and value.dtype == np.float32}
    assert large
    assert before.keys() - after.keys() == large
    rounded = {}
    for name in large:
        stored = after[f"{name}_{suffix}"]
        assert stored.itemsize == 2
        rounded[name] = (stored * after.get(f"{name}_scale", np.float32(1))).astype(np.float32)
        np.testing.assert_allclose(rounded[name], before[name], atol=np.abs(before[name]).max() / steps)
    expected = onnx.load(encode_graph)
    for tensor in expected.graph.initializer:
        if tensor.name in large:
            tensor.CopyFrom(onnx.numpy_helper.from_array(rounded[tensor.name], tensor.name))
    onnx.save(expected, tmp_path / "rounded.onnx")
    found, wanted = (
        onnxruntime.InferenceSession(tmp_path / file, providers=["CPUExecutionProvider"]).run(None, {"images": images})
        for file in ("stored.onnx", "rounded.onnx")
    )
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    products = matrix_products(tmp_path / "stored.onnx")
    assert [(product.layer, product.has_weight) for product in products] == [
        (product.layer, product.has_weight) for product in matrix_products(encode_graph)
    ]


def test_what_is_added_may_be_smaller_still(encode_graph: Path) -> None:
    model = onnx.load(encode_graph)
    before = weights_of(model)
    store_in_whole_numbers(model, added_bits=8, least=512)
    after = weights_of(model)
    assert after["encoder.positions_NC_stored"].dtype == np.int8
    stored = {name for name in after if name.endswith("_stored")}
    assert {after[name].dtype.itemsize for name in stored - {"encoder.positions_NC_stored"}} == {2}
    restored = after["encoder.positions_NC_stored"] * after["encoder.positions_NC_scale"]
    wanted = before["encoder.positions_NC"]
    np.testing.assert_allclose(restored, wanted, atol=np.abs(wanted).max() / 250)


def test_a_table_that_rows_are_taken_from_may_be_smaller_still(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "rows"], ["taken"]),
        helper.make_node("MatMul", ["taken", "weight"], ["y"]),
    ]
    normal = np.random.default_rng(0).normal
    weights = {"table": normal(size=(8, 4)).astype(np.float32), "weight": normal(size=(4, 8)).astype(np.float32)}
    inputs = [helper.make_tensor_value_info("rows", onnx.TensorProto.INT64, ["b"])]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["b", 8])]
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "taken", inputs, outputs, constants), opset_imports=[helper.make_opsetid("", 20)]
    )
    store_in_whole_numbers(model, lookup_bits=8, least=16)
    onnx.checker.check_model(model, full_check=True)
    stored = weights_of(model)
    assert (stored["table_stored"].dtype, stored["weight_stored"].dtype) == (np.int8, np.int16)
    assert stored["table_scale"].shape == (8, 1), "one for each row"
    assert stored["weight_scale"].shape == (8,), "one for each channel"


def test_what_fp16_cannot_hold_stays_as_it_is(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "far"], ["a"], name="first"),
        helper.make_node("MatMul", ["a", "near"], ["y"], name="second"),
    ]
    weights = {"far": np.full((4, 4), 7e4, np.float32), "near": np.full((4, 4), 6e4, np.float32)}
    path = save_graph(tmp_path / "graph.onnx", nodes, weights, {"x": ("b", 4)}, {"y": ("b", 4)})
    model = onnx.load(path)
    store_in_half(model, least=16)
    assert {name: value.dtype for name, value in weights_of(model).items()} == {
        "far": np.dtype(np.float32),
        "near_half": np.dtype(np.float16),
    }
