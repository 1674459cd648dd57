"""Bias correction: what rounded weights add on average is taken off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from hand_made_graphs import save_graph, weights_of
from onnx import helper

from vqrae.calibration.bias import correct_biases
from vqrae.calibration.layers import matrix_products
from vqrae.calibration.weights import store_in_int8

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(16, 8)).astype(np.float32)
MEAN = RANDOM.normal(size=16).astype(np.float32) * 4
INPUTS = (MEAN + RANDOM.normal(size=(256, 16))).astype(np.float32)


def made(model: onnx.ModelProto) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # or it would round inputs too
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": INPUTS})[0]


def with_rounded_weight(path: Path, *, bias_is_shared: bool) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """x·w + b, and once more + b where the bias is shared; in float, and with w in INT8."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], name="product"),
        helper.make_node("Add", ["product", "b"], ["sum" if bias_is_shared else "y"], name="add"),
    ]
    if bias_is_shared:
        nodes.append(helper.make_node("Add", ["sum", "b"], ["y"], name="again"))
    weights = {"w": WEIGHT, "b": RANDOM.normal(size=8).astype(np.float32)}
    save_graph(path, nodes, weights, {"x": ("n", 16)}, {"y": ("n", 8)})
    rounded = onnx.load(path)
    store_in_int8(rounded, matrix_products(path))
    return onnx.load(path), rounded


def corrected(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    weights = weights_of(model)
    error = WEIGHT - weights["w_int8"] * weights["w_scale"]
    correct_biases(model, matrix_products(path), {"w": error}, {"x": INPUTS.mean(0)})
    onnx.checker.check_model(model, full_check=True)
    return model


def test_the_mean_of_every_output_is_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    plain, rounded = with_rounded_weight(path, bias_is_shared=False)
    wanted, before = made(plain), made(rounded)
    after = made(corrected(rounded, path))
    assert np.abs((before - wanted).mean(0)).max() > 1e-3
    np.testing.assert_allclose(after.mean(0), wanted.mean(0), atol=1e-4)
    assert np.square(after - wanted).mean() < np.square(before - wanted).mean() / 2


def test_a_bias_that_something_else_reads_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    plain, rounded = with_rounded_weight(path, bias_is_shared=True)
    np.testing.assert_array_equal(weights_of(corrected(rounded, path))["b"], weights_of(plain)["b"])
