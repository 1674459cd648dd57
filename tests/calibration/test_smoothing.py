"""Smoothing evens out channels and changes nothing that a graph computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hand_made_graphs import save_graph, weights_of
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from vqrae.calibration.layers import Product, matrix_products
from vqrae.calibration.ranges import Range, activation_ranges
from vqrae.calibration.smoothing import smooth

CHANNELS, OUTLIER = 8, 3
ATOL = 1e-5


def computed(model: ModelProto, inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: inputs}), strict=True))


def ranges_of(path: Path, products: Sequence[Product], inputs: NDArray[Any]) -> dict[str, Range]:
    return activation_ranges(path, {product.inputs[0]: product.layer for product in products}, inputs, "minmax")


def spread(found: Range) -> float:
    """How much further the widest channel reaches than a usual one."""
    return float(found.largest_C.max() / np.median(found.largest_C))


# --- the real one ---


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["encode", "decode"])
def test_a_smoothed_graph_computes_the_same(
    exported: Path, images: NDArray[np.uint8], indices: NDArray[np.int32], name: str, alpha: float
) -> None:
    path = exported / f"{name}.onnx"
    inputs: NDArray[Any] = images if name == "encode" else indices
    weighted = [product for product in matrix_products(path) if product.has_weight]
    model, before = onnx.load(path), onnx.load(path)
    smooth(model, weighted, ranges_of(path, weighted, inputs), alpha)
    changed = {name for name, value in weights_of(model).items() if (value != weights_of(before)[name]).any()}
    assert len(changed) >= 4 * 3, "a scale, a bias and a matrix, of two norms in two blocks"
    for output, values in computed(before, inputs).items():
        np.testing.assert_allclose(computed(model, inputs)[output], values, rtol=ATOL, atol=ATOL)


def test_the_features_that_leave_the_graph_and_their_search_are_untouched(
    encode_graph: Path, products: tuple[Product, ...], images: NDArray[np.uint8]
) -> None:
    weighted = [product for product in products if product.has_weight]
    (search,) = [product for product in products if product.role == "scores"]
    model, before = onnx.load(encode_graph), weights_of(onnx.load(encode_graph))
    (norm,) = [node for node in model.graph.node if node.output[0] == search.inputs[0]]
    assert (norm.op_type, norm.output[0]) == ("LayerNormalization", "features")
    smooth(model, weighted, ranges_of(encode_graph, weighted, images), 0.5)
    for name in (*norm.input[1:], search.inputs[1]):
        np.testing.assert_array_equal(weights_of(model)[name], before[name])


def test_what_no_linear_map_makes_is_left_as_it_is(
    encode_graph: Path, products: tuple[Product, ...], images: NDArray[np.uint8]
) -> None:
    """What comes out of an activation function cannot be shrunk in front of it."""
    weighted = [product for product in products if product.has_weight]
    model, before = onnx.load(encode_graph), weights_of(onnx.load(encode_graph))
    smooth(model, weighted, ranges_of(encode_graph, weighted, images), 0.5)
    after = weights_of(model)
    changed = {product.layer for product in weighted if (after[product.inputs[1]] != before[product.inputs[1]]).any()}
    kinds = {layer.rpartition(".")[2] for layer in changed}
    assert kinds == {"query_key_value", "out", "up"}
    assert len(changed) == 2 * 3


def test_values_shrink_by_what_the_projection_behind_attention_grows_by(
    encode_graph: Path, products: tuple[Product, ...], images: NDArray[np.uint8]
) -> None:
    weighted = {product.layer: product for product in products if product.has_weight}
    model, before = onnx.load(encode_graph), weights_of(onnx.load(encode_graph))
    smooth(model, [*weighted.values()], ranges_of(encode_graph, [*weighted.values()], images), 0.5)
    after = weights_of(model)
    made, out = (weighted[f"encoder.blocks.0.{layer}"].inputs[1] for layer in ("query_key_value", "out"))
    factors_C = (after[out] / before[out])[:, 0]
    assert np.unique(factors_C).size > 1
    bias = "encoder.blocks.0.query_key_value.bias"
    np.testing.assert_array_equal(after[bias][-len(factors_C) :] * factors_C, before[bias][-len(factors_C) :])
    np.testing.assert_array_equal(after[bias][: -len(factors_C)], before[bias][: -len(factors_C)])
    rows_C = (after[made] / before[made])[:, 0]  # what the norm in front of it gave
    values = after[made][:, -len(factors_C) :] * factors_C
    np.testing.assert_allclose(values, before[made][:, -len(factors_C) :] * rows_C[:, None], rtol=1e-6)


# --- one with a channel that reaches far ---


@pytest.fixture
def inputs() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(6, 5, CHANNELS)).astype(np.float32)


def norm(x: str, output: str, scale: str = "scale", bias: str = "bias") -> NodeProto:
    return helper.make_node("LayerNormalization", [x, scale, bias], [output], name=f"norm_{output}", axis=-1)


def product(x: str, weight: str, output: str) -> NodeProto:
    return helper.make_node("MatMul", [x, weight], [output], name=output)


def weights() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    found = {"scale": np.ones(CHANNELS), "bias": np.full(CHANNELS, 0.1)}
    found |= {name: rng.normal(size=(CHANNELS, 4)) for name in ("first", "second")}
    found["scale"][OUTLIER] = 100
    return {name: value.astype(np.float32) for name, value in found.items()}


def save(path: Path, nodes: Sequence[NodeProto], **outputs: int) -> Path:
    used = {name for node in nodes for name in node.input}
    kept = {name: value for name, value in weights().items() if name in used}
    shapes = {name: ("b", 5, width) for name, width in outputs.items()}
    return save_graph(path, nodes, kept, {"x": ("b", 5, CHANNELS)}, shapes)


@pytest.mark.parametrize("alpha", [0.5, 0.8, 1.0])
def test_a_channel_that_reaches_far_is_evened_out(tmp_path: Path, inputs: NDArray[np.float32], alpha: float) -> None:
    """By SmoothQuant's equation 4, to the next power of two."""
    path = save(tmp_path / "g.onnx", [norm("x", "even"), product("even", "first", "y")], y=4)
    products = matrix_products(path)
    before = ranges_of(path, products, inputs)["even"]
    assert spread(before) > 50
    model = onnx.load(path)
    smooth(model, products, {"even": before}, alpha)
    onnx.save(model, tmp_path / "smoothed.onnx")
    after = ranges_of(tmp_path / "smoothed.onnx", products, inputs)["even"]
    assert spread(after) < 2 * spread(before) ** (1 - alpha) * 2
    assert spread(after) < spread(before) / 4
    factors = before.largest_C / after.largest_C
    wanted = before.largest_C**alpha / np.abs(weights()["first"]).max(1) ** (1 - alpha)
    assert (np.abs(np.log2(factors / wanted)) <= 0.5 + 1e-4).all()
    np.testing.assert_allclose(np.log2(factors), np.round(np.log2(factors)), atol=1e-4)
    smoothed = weights_of(model)
    np.testing.assert_allclose(smoothed["first"], weights()["first"] * factors[:, None], rtol=1e-4)
    np.testing.assert_allclose(smoothed["scale"], weights()["scale"] / factors, rtol=1e-4)
    np.testing.assert_allclose(smoothed["bias"], weights()["bias"] / factors, rtol=1e-4)
    np.testing.assert_allclose(computed(model, inputs)["y"], computed(onnx.load(path), inputs)["y"], rtol=ATOL)


def test_a_norm_in_front_of_two_products_serves_both(tmp_path: Path, inputs: NDArray[np.float32]) -> None:
    nodes = [norm("x", "even"), product("even", "first", "y"), product("even", "second", "z")]
    path = save(tmp_path / "g.onnx", nodes, y=4, z=4)
    products = matrix_products(path)
    model = onnx.load(path)
    smooth(model, products, ranges_of(path, products, inputs), 0.5)
    after = weights_of(model)
    assert all((after[name] != weights()[name]).any() for name in ("scale", "bias", "first", "second"))
    for name, values in computed(onnx.load(path), inputs).items():
        np.testing.assert_allclose(computed(model, inputs)[name], values, rtol=ATOL, atol=ATOL)


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([norm("x", "even"), product("even", "first", "y")], {"y": 4, "even": CHANNELS}),
        (
            [norm("x", "even"), product("even", "first", "y"), helper.make_node("Relu", ["even"], ["z"])],
            {"y": 4, "z": CHANNELS},
        ),
        (
            [
                norm("x", "even"),
                product("even", "first", "y"),
                helper.make_node("Relu", ["x"], ["r"]),
                norm("r", "other"),
                product("other", "second", "z"),
            ],
            {"y": 4, "z": 4},
        ),
        (
            [
                norm("x", "even"),
                product("even", "first", "y"),
                helper.make_node("Relu", ["x"], ["r"]),
                product("r", "first", "z"),
            ],
            {"y": 4, "z": 4},
        ),
    ],
    ids=["it leaves the graph", "another node reads it", "two norms share a scale", "two products share a matrix"],
)
def test_what_something_else_depends_on_is_left_as_it_is(
    tmp_path: Path, inputs: NDArray[np.float32], nodes: list[NodeProto], outputs: dict[str, int]
) -> None:
    path = save(tmp_path / "g.onnx", nodes, **outputs)
    products = matrix_products(path)
    model = onnx.load(path)
    before = model.SerializeToString(deterministic=True)
    smooth(model, products, ranges_of(path, products, inputs), 0.5)
    assert model.SerializeToString(deterministic=True) == before


def test_a_product_that_is_not_asked_for_is_left_as_it_is(tmp_path: Path, inputs: NDArray[np.float32]) -> None:
    nodes = [norm("x", "even"), product("even", "first", "y"), product("even", "second", "z")]
    path = save(tmp_path / "g.onnx", nodes, y=4, z=4)
    products = matrix_products(path)
    model = onnx.load(path)
    before = model.SerializeToString(deterministic=True)
    smooth(model, products[:1], ranges_of(path, products, inputs), 0.5)
    assert model.SerializeToString(deterministic=True) == before


def test_a_channel_that_is_silent_does_no_harm(tmp_path: Path, inputs: NDArray[np.float32]) -> None:
    path = save(tmp_path / "g.onnx", [norm("x", "even"), product("even", "first", "y")], y=4)
    products = matrix_products(path)
    found = ranges_of(path, products, inputs)["even"]
    found.largest_C[0] = 0
    model = onnx.load(path)
    smooth(model, products, {"even": found}, 0.5)
    assert all(np.isfinite(value).all() for value in weights_of(model).values())
    np.testing.assert_allclose(computed(model, inputs)["y"], computed(onnx.load(path), inputs)["y"], rtol=1e-4)
