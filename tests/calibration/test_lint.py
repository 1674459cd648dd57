"""What TensorRT refuses, made by the choices of onnxruntime's own quantizer; and what we make, which passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hand_made_graphs import save_graph
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from tiny_models import roles

from vqrae.calibration.int8_graph import Int8Graph
from vqrae.calibration.layers import matrix_products
from vqrae.calibration.lint import check_qdq, lint
from vqrae.calibration.plan import PrecisionPlan
from vqrae.calibration.weights import store_in_int8
from vqrae.runtimes.errors import RuntimeUnavailable

SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True}
AROUND_ZERO = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8, "per_channel": True}
MATMUL_CHANNELS = {"QDQOpTypePerChannelSupportToAxis": {"MatMul": 1}}
"""Without it, `per_channel` means another axis than the output's."""


class Inputs(CalibrationDataReader):  # type: ignore[misc] # its framework has no types
    def __init__(self) -> None:
        generator = np.random.default_rng(1)
        self._batches = iter([{"x": generator.uniform(-1, 2, (3, 4)).astype(np.float32)} for _ in range(4)])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


@pytest.fixture(scope="module")
def float_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x -> Gemm with a bias -> Relu -> MatMul -> Softmax."""
    nodes = [
        helper.make_node("Gemm", ["x", "gemm_w", "gemm_b"], ["a"], name="gemm"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "matmul_w"], ["m"], name="matmul"),
        helper.make_node("Softmax", ["m"], ["y"], name="softmax", axis=-1),
    ]
    shapes: dict[str, tuple[int, ...]] = {"gemm_w": (4, 6), "gemm_b": (6,), "matmul_w": (6, 5)}
    generator = np.random.default_rng(0)
    weights = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    path = tmp_path_factory.mktemp("lint") / "float.onnx"
    return save_graph(path, nodes, weights, {"x": ("batch", 4)}, {"y": ("batch", 5)})


def quantized(source: Path, path: Path, operators: list[str] | None, **choices: Any) -> Path:
    quantize_static(source, path, Inputs(), quant_format=QuantFormat.QDQ, op_types_to_quantize=operators, **choices)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(RuntimeUnavailable) as caught:
        check_qdq(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_uint8(float_graph: Path, tmp_path: Path) -> None:
    """onnxruntime's own choice for activations."""
    choices = {"weight_type": QuantType.QInt8, "per_channel": True, "activation_type": QuantType.QUInt8}
    path = quantized(float_graph, tmp_path / "graph.onnx", ["MatMul"], extra_options=MATMUL_CHANNELS, **choices)
    assert {finding.got for finding in lint(path)} >= {"uint8 numbers"}
    assert "got uint8 numbers (and " in refusal(path)
    assert "expected int8 around zero (symmetric)" in refusal(path)


def test_an_int32_bias(float_graph: Path, tmp_path: Path) -> None:
    """onnxruntime's own choice for biases."""
    outputs = {"OpTypesToExcludeOutputQuantization": ["Gemm"]}
    path = quantized(float_graph, tmp_path / "graph.onnx", ["Gemm"], extra_options=SYMMETRIC | outputs, **AROUND_ZERO)
    (finding,) = lint(path)
    assert finding.got == "an int32 bias"
    assert refusal(path) == (
        f"graph.onnx, node {finding.node}: got an int32 bias; "
        "expected biases in float: they are added after the product"
    )


def test_all_operators(float_graph: Path, tmp_path: Path) -> None:
    """onnxruntime's own choice of operators."""
    options = SYMMETRIC | MATMUL_CHANNELS | {"QuantizeBias": False}
    path = quantized(float_graph, tmp_path / "graph.onnx", None, extra_options=options, **AROUND_ZERO)
    got = {finding.got for finding in lint(path)}
    assert got == {"a pair before Relu", "a pair before Softmax", "a pair before an output of the graph"}
    assert "expected one before MatMul, Gemm, Conv only" in refusal(path)


def test_a_zero_point_that_is_not_0(float_graph: Path, tmp_path: Path) -> None:
    options = MATMUL_CHANNELS | {"OpTypesToExcludeOutputQuantization": ["MatMul"]}
    path = quantized(float_graph, tmp_path / "graph.onnx", ["MatMul"], extra_options=options, **AROUND_ZERO)
    assert {finding.got for finding in lint(path)} == {"a zero point that is not 0"}
    assert "got a zero point that is not 0 (and 1 other findings)" in refusal(path)


def test_one_scale_for_a_whole_weight(float_graph: Path, tmp_path: Path) -> None:
    options = SYMMETRIC | {"OpTypesToExcludeOutputQuantization": ["MatMul"]}
    choices = AROUND_ZERO | {"per_channel": False}
    path = quantized(float_graph, tmp_path / "graph.onnx", ["MatMul"], extra_options=options, **choices)
    (finding,) = lint(path)
    assert (finding.got, finding.expected) == ("one scale for a whole weight", "a scale for each output channel")
    assert str(finding) in refusal(path)


def test_its_own_choices_together(float_graph: Path, tmp_path: Path) -> None:
    path = quantized(float_graph, tmp_path / "graph.onnx", None)
    got = {finding.got for finding in lint(path)}
    assert {"an int32 bias", "a pair before Softmax", "one scale for a whole weight"} < got


@pytest.mark.parametrize("asked", [None, TensorProto.INT8])
def test_a_pair_without_a_zero_point_is_uint8_unless_it_says_otherwise(tmp_path: Path, asked: int | None) -> None:
    """By ONNX's own rule."""
    told = {} if asked is None else {"output_dtype": asked}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale"], ["q"], name="quantize", **told),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["d"], name="dequantize"),
        helper.make_node("MatMul", ["d", "w"], ["y"], name="matmul"),
    ]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "y")]
    constants = [helper.make_tensor("scale", TensorProto.FLOAT, [], [1.0])]
    constants.append(helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1.0] * 4))
    graph = helper.make_graph(nodes, "graph", infos[:1], infos[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "graph.onnx")
    wanted = [] if asked else [("quantize", "uint8 numbers"), ("dequantize", "uint8 numbers")]
    assert [(finding.node, finding.got) for finding in lint(tmp_path / "graph.onnx")] == wanted


# --- what we make ---


def test_our_symmetric_graphs_pass(
    encode_graph: Path,
    decode_graph: Path,
    images: NDArray[np.uint8],
    indices: NDArray[np.int32],
    tmp_path: Path,
) -> None:
    inputs: dict[Path, NDArray[Any]] = {encode_graph: images, decode_graph: indices}
    for source, values in inputs.items():
        with Int8Graph(source, values, roles()) as quantizer:
            quantizer.write(PrecisionPlan.default(quantizer.products), "symmetric", tmp_path / "symmetric.onnx")
            quantizer.write(PrecisionPlan.default(quantizer.products), "asymmetric", tmp_path / "asymmetric.onnx")
        assert lint(tmp_path / "symmetric.onnx") == []
        check_qdq(tmp_path / "symmetric.onnx")
        assert "uint8 numbers" in refusal(tmp_path / "asymmetric.onnx"), "what ONNX Runtime and OpenVINO are given"


def test_our_stored_weights_pass(encode_graph: Path, tmp_path: Path) -> None:
    model = onnx.load(encode_graph)
    store_in_int8(model, [product for product in matrix_products(encode_graph) if product.has_weight])
    onnx.save(model, tmp_path / "graph.onnx")
    assert lint(tmp_path / "graph.onnx") == []


def test_a_graph_without_pairs_passes(encode_graph: Path) -> None:
    assert lint(encode_graph) == []
