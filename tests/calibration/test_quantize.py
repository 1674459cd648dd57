"""INT8 graphs: the same bytes for the same plan, INT8 where it says so and nowhere else, and close to the original."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hand_made_graphs import save_graph, weights_of
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tiny_models import roles

from vqrae.calibration import int8_graph, rounding
from vqrae.calibration.int8_graph import Int8Graph
from vqrae.calibration.layers import Product, int8_layers
from vqrae.calibration.plan import PrecisionPlan, RangeMethod, Scheme
from vqrae.calibration.rounding import compensated
from vqrae.calibration.weights import LARGEST, Bits
from vqrae.runtimes.errors import CheckpointError


@pytest.fixture(scope="module")
def quantizer(encode_graph: Path, images: NDArray[np.uint8]) -> Iterator[Int8Graph]:
    """The encoder's."""
    with Int8Graph(encode_graph, images, roles()) as made:
        yield made


@pytest.fixture(scope="module")
def all_float(products: tuple[Product, ...]) -> PrecisionPlan:
    return PrecisionPlan(layers={product.layer: "float" for product in products})


def run(path: Path, inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: inputs}), strict=True))


def zero_points(path: Path) -> dict[int, list[NDArray[Any]]]:
    """Data type -> the zero points of it that quantize activations; weights are stored quantized."""
    model = onnx.load(path)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[int, list[NDArray[Any]]] = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            zero = constants[node.input[2]]
            found.setdefault(zero.data_type, []).append(numpy_helper.to_array(zero))
    return found


# --- the same bytes ---


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_the_same_images_and_plan_give_the_same_bytes(
    encode_graph: Path, images: NDArray[np.uint8], tmp_path: Path, method: RangeMethod
) -> None:
    for name in ("one", "other"):
        with Int8Graph(encode_graph, images, roles()) as quantizer:
            plan = PrecisionPlan(ranges=method, layers=PrecisionPlan.default(quantizer.products).layers)
            quantizer.write(plan, "asymmetric", tmp_path / f"{name}.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()


def test_what_was_written_before_does_not_matter(
    encode_graph: Path, images: NDArray[np.uint8], quantizer: Int8Graph, all_float: PrecisionPlan, tmp_path: Path
) -> None:
    """A quantizer keeps what it observed; a search writes many plans with one."""
    default = PrecisionPlan.default(quantizer.products)
    for number, before in enumerate(
        (
            default.with_layers({"quantizer.scores": "int8"}),
            all_float.with_layers({"encoder.blocks.0.out": "int8"}),
            PrecisionPlan(smoothing=None, layers=default.layers),
            PrecisionPlan(smoothing=0.9, ranges="percentile", layers=default.layers),
        )
    ):
        quantizer.write(before, "symmetric", tmp_path / f"{number}.onnx")
    quantizer.write(default, "asymmetric", tmp_path / "late.onnx")
    with Int8Graph(encode_graph, images, roles()) as fresh:
        fresh.write(default, "asymmetric", tmp_path / "fresh.onnx")
    assert (tmp_path / "late.onnx").read_bytes() == (tmp_path / "fresh.onnx").read_bytes()
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 5, "each plan has a graph of its own"


def test_a_weight_is_rounded_once_for_all_plans(
    encode_graph: Path, images: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []

    def counted(weight_CO: NDArray[np.float32], *others: Any) -> NDArray[np.float32]:
        shapes.append(weight_CO.shape)
        return compensated(weight_CO, *others)

    monkeypatch.setattr(rounding, "compensated", counted)
    with Int8Graph(encode_graph, images, roles()) as quantizer:
        plan = PrecisionPlan.default(quantizer.products)
        for name, changed in (("one", {}), ("other", {"encoder.blocks.0.up": "float"}), ("again", {})):
            quantizer.write(plan.with_layers(changed), "asymmetric", tmp_path / f"{name}.onnx")
    rounded = [product for product in plan.int8(quantizer.products) if product.has_weight]
    assert len(shapes) == len(rounded), "no plan after the first rounds anything"


def test_other_images_give_other_ranges(
    encode_graph: Path, images: NDArray[np.uint8], quantizer: Int8Graph, tmp_path: Path
) -> None:
    plan = PrecisionPlan.default(quantizer.products)
    quantizer.write(plan, "asymmetric", tmp_path / "one.onnx")
    with Int8Graph(encode_graph, images[:2], roles()) as fewer:
        fewer.write(plan, "asymmetric", tmp_path / "other.onnx")
    assert (tmp_path / "one.onnx").read_bytes() != (tmp_path / "other.onnx").read_bytes()


def test_nothing_of_this_machine_is_in_the_file(quantizer: Int8Graph, tmp_path: Path) -> None:
    quantizer.write(PrecisionPlan.default(quantizer.products), "asymmetric", tmp_path / "graph.onnx")
    content = (tmp_path / "graph.onnx").read_bytes()
    assert b"vqrae-" not in content
    assert str(tmp_path).encode() not in content
    assert list(tmp_path.iterdir()) == [tmp_path / "graph.onnx"], "its weights are inside"


def test_closing_deletes_the_smoothed_graphs(encode_graph: Path, images: NDArray[np.uint8], tmp_path: Path) -> None:
    quantizer = Int8Graph(encode_graph, images, roles())
    quantizer.write(PrecisionPlan.default(quantizer.products), "asymmetric", tmp_path / "graph.onnx")
    (smoothed,) = quantizer._smoothed.values()
    assert smoothed.exists()
    quantizer.close()
    assert not smoothed.parent.exists()


# --- what is INT8 ---


@pytest.mark.parametrize(
    "layers",
    [
        [],
        ["encoder.blocks.0.up"],
        ["encoder.blocks.1.query_key_value", "encoder.blocks.1.down"],
        ["encoder.blocks.0.attention.queries_keys"],
        ["encoder.blocks.0.attention.queries_keys", "encoder.blocks.0.attention.weights_values"],
        ["encoder.patch_embedding", "quantizer.scores"],
    ],
    ids=["none", "one", "two", "scores of attention", "attention", "both ends"],
)
@pytest.mark.parametrize("scheme", ["asymmetric", "symmetric"])
def test_only_planned_layers_are_int8(
    encode_graph: Path,
    images: NDArray[np.uint8],
    all_float: PrecisionPlan,
    tmp_path: Path,
    scheme: Scheme,
    layers: list[str],
) -> None:
    with Int8Graph(encode_graph, images, roles()) as quantizer:
        plan = all_float.with_layers(dict.fromkeys(layers, "int8"))
        quantizer.write(plan, scheme, tmp_path / "graph.onnx")
        assert int8_layers(tmp_path / "graph.onnx", quantizer.products) == layers


def test_a_plan_in_float_stays_in_float_after_one_in_int8(
    quantizer: Int8Graph, all_float: PrecisionPlan, tmp_path: Path
) -> None:
    everything = {product.layer: "int8" for product in quantizer.products}
    quantizer.write(PrecisionPlan(layers=everything), "asymmetric", tmp_path / "int8.onnx")
    quantizer.write(all_float, "asymmetric", tmp_path / "float.onnx")
    assert int8_layers(tmp_path / "float.onnx", quantizer.products) == []


@pytest.mark.parametrize("chosen", ["gate", "up"])
def test_of_two_layers_that_share_what_they_read_one_may_be_int8(tmp_path: Path, chosen: str) -> None:
    """The other one then reads rounded numbers, and is no INT8 for that."""
    nodes = [
        helper.make_node("Relu", ["x"], ["shared"], name="relu"),
        *(helper.make_node("MatMul", ["shared", f"{name}_w"], [name], name=name) for name in ("gate", "up")),
    ]
    weights = {f"{name}_w": np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32) for name in ("gate", "up")}
    outputs: dict[str, tuple[int | str, ...]] = {"gate": ("b", 3, 5), "up": ("b", 3, 5)}
    path = save_graph(tmp_path / "float.onnx", nodes, weights, {"x": ("b", 3, 4)}, outputs)
    inputs = np.random.default_rng(1).normal(size=(5, 3, 4)).astype(np.float32)
    with Int8Graph(path, inputs, {"gate": "mlp", "up": "mlp"}) as quantizer:
        layers = {product.layer: "float" for product in quantizer.products} | {chosen: "int8"}
        quantizer.write(PrecisionPlan.model_validate({"layers": layers}), "asymmetric", tmp_path / "int8.onnx")
        assert int8_layers(tmp_path / "int8.onnx", quantizer.products) == [chosen]


def test_everything_may_be_int8(quantizer: Int8Graph, tmp_path: Path) -> None:
    plan = PrecisionPlan(layers={product.layer: "int8" for product in quantizer.products})
    quantizer.write(plan, "asymmetric", tmp_path / "graph.onnx")
    found = int8_layers(tmp_path / "graph.onnx", quantizer.products)
    assert found == [product.layer for product in quantizer.products]


def test_the_default_plan_on_tokens(decode_graph: Path, indices: NDArray[np.int32], tmp_path: Path) -> None:
    with Int8Graph(decode_graph, indices, roles()) as quantizer:
        plan = PrecisionPlan.default(quantizer.products)
        quantizer.write(plan, "asymmetric", tmp_path / "decode.onnx")
        assert int8_layers(tmp_path / "decode.onnx", quantizer.products) == [
            f"decoder.blocks.{block}.{layer}" for block in (0, 1) for layer in ("query_key_value", "out", "up", "down")
        ]
    images = run(tmp_path / "decode.onnx", indices)["images"].astype(int)
    assert np.abs(images - run(decode_graph, indices)["images"]).mean() < 2


def test_activations_take_the_form_that_the_scheme_names(quantizer: Int8Graph, tmp_path: Path) -> None:
    plan = PrecisionPlan.default(quantizer.products)
    for scheme in ("asymmetric", "symmetric"):
        quantizer.write(plan, scheme, tmp_path / f"{scheme}.onnx")
    asymmetric, symmetric = zero_points(tmp_path / "asymmetric.onnx"), zero_points(tmp_path / "symmetric.onnx")
    assert list(asymmetric) == [TensorProto.UINT8]
    assert any(zero.any() for zero in asymmetric[TensorProto.UINT8])
    assert list(symmetric) == [TensorProto.INT8]
    assert not any(zero.any() for zero in symmetric[TensorProto.INT8])


def test_queries_and_keys_are_around_zero_and_attention_s_weights_are_not(
    quantizer: Int8Graph, all_float: PrecisionPlan, tmp_path: Path
) -> None:
    for kind, dtypes in (
        ("queries_keys", [TensorProto.INT8] * 2),
        ("weights_values", [TensorProto.UINT8, TensorProto.INT8]),
    ):
        path = tmp_path / f"{kind}.onnx"
        quantizer.write(all_float.with_layers({f"encoder.blocks.0.attention.{kind}": "int8"}), "asymmetric", path)
        found = zero_points(path)
        assert sorted(found) == sorted({*dtypes})
        assert sum(len(zeros) for zeros in found.values()) == 2
        assert not any(zero.any() for zeros in found.values() for zero in zeros)


def test_weights_are_int8_with_a_scale_for_each_output_channel(
    encode_graph: Path, products: tuple[Product, ...], quantizer: Int8Graph, all_float: PrecisionPlan, tmp_path: Path
) -> None:
    (up,) = [product for product in products if product.layer == "encoder.blocks.0.up"]
    plan = PrecisionPlan(smoothing=None, layers=all_float.with_layers({up.layer: "int8"}).layers)
    quantizer.write(plan, "asymmetric", tmp_path / "graph.onnx")
    model = onnx.load(tmp_path / "graph.onnx")
    constants = weights_of(model)
    (dequantize,) = [node for node in model.graph.node if node.input[0].startswith(up.inputs[1])]
    assert dequantize.op_type == "DequantizeLinear"
    quantized, scale_C, zero_C = (constants[name] for name in dequantize.input)
    assert (quantized.dtype, quantized.shape, scale_C.shape) == (np.int8, (32, 64), (64,))
    assert not zero_C.any()
    weight = weights_of(onnx.load(encode_graph))[up.inputs[1]]
    np.testing.assert_allclose(scale_C, np.abs(weight).max(0) / 127, rtol=0.01)
    errors = np.abs(quantized * scale_C - weight) / scale_C
    assert errors.mean() < 1, "steps; a single weight takes over what others lost"
    assert up.inputs[1] not in constants, "the float weights are gone"


def test_the_activation_s_range_is_what_was_observed(
    encode_graph: Path,
    products: tuple[Product, ...],
    images: NDArray[np.uint8],
    all_float: PrecisionPlan,
    tmp_path: Path,
) -> None:
    (out,) = [product for product in products if product.layer == "encoder.blocks.0.out"]
    with Int8Graph(encode_graph, images, roles()) as quantizer:
        plan = PrecisionPlan(smoothing=None, layers=all_float.with_layers({out.layer: "int8"}).layers)
        quantizer.write(plan, "asymmetric", tmp_path / "graph.onnx")
    probe = onnx.load(encode_graph)
    probe.graph.output.append(onnx.ValueInfoProto(name=out.inputs[0]))
    onnx.save(probe, tmp_path / "probe.onnx")
    values = run(tmp_path / "probe.onnx", images)[out.inputs[0]]
    model = onnx.load(tmp_path / "graph.onnx")
    (quantize,) = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    scale, zero = (weights_of(model)[name] for name in quantize.input[1:])
    assert quantize.input[0] == out.inputs[0]
    assert scale == pytest.approx((values.max() - values.min()) / 255, rel=1e-5)
    assert int(zero) == pytest.approx(-values.min() / scale, abs=0.51)


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_an_int8_graph_is_close_to_the_original(
    encode_graph: Path, images: NDArray[np.uint8], all_float: PrecisionPlan, tmp_path: Path, method: RangeMethod
) -> None:
    """Entropy takes time for each layer, so that few are INT8."""
    layers = ("encoder.blocks.0.up", "encoder.blocks.1.query_key_value")
    with Int8Graph(encode_graph, images, roles()) as quantizer:
        plan = all_float.with_layers(dict.fromkeys(layers, "int8"))
        quantizer.write(PrecisionPlan(ranges=method, layers=plan.layers), "asymmetric", tmp_path / "graph.onnx")
    found, wanted = run(tmp_path / "graph.onnx", images)["features"], run(encode_graph, images)["features"]
    assert np.abs(found - wanted).max() > 1e-4, "something was rounded"
    cosine = (found * wanted).sum() / np.linalg.norm(found) / np.linalg.norm(wanted)
    assert cosine > 0.999


def test_an_open_batch_stays_open(quantizer: Int8Graph, images: NDArray[np.uint8], tmp_path: Path) -> None:
    quantizer.write(PrecisionPlan.default(quantizer.products), "asymmetric", tmp_path / "graph.onnx")
    whole = run(tmp_path / "graph.onnx", images)["features"]
    np.testing.assert_allclose(run(tmp_path / "graph.onnx", images[:1])["features"], whole[:1], atol=0.05)


def test_a_model_that_is_broken_inside_is_refused_by_layer(
    encode_graph: Path, products: tuple[Product, ...], images: NDArray[np.uint8], tmp_path: Path
) -> None:
    model = onnx.load(encode_graph)
    (up,) = [product for product in products if product.layer == "encoder.blocks.1.up"]
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == up.inputs[1]]
    weight.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(weight), np.nan), weight.name))
    onnx.save(model, tmp_path / "broken.onnx")
    message = r"activations of encoder\.blocks\.1\.down: got values that are not numbers; expected finite ones"
    with (
        Int8Graph(tmp_path / "broken.onnx", images, roles()) as quantizer,
        pytest.raises(CheckpointError, match=message),
    ):
        quantizer.write(PrecisionPlan.default(quantizer.products), "asymmetric", tmp_path / "graph.onnx")
    assert not (tmp_path / "graph.onnx").exists()


def test_features_that_leave_the_graph_are_not_rounded(
    encode_graph: Path, quantizer: Int8Graph, images: NDArray[np.uint8], all_float: PrecisionPlan, tmp_path: Path
) -> None:
    plan = PrecisionPlan(smoothing=None, layers=all_float.with_layers({"quantizer.scores": "int8"}).layers)
    quantizer.write(plan, "asymmetric", tmp_path / "graph.onnx")
    found, wanted = run(tmp_path / "graph.onnx", images)["features"], run(encode_graph, images)["features"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(("most", "suffix", "bits"), [(2**20, "high", 12), (1, "stored", 16)])
def test_what_is_large_is_not_packed(
    encode_graph: Path,
    images: NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
    suffix: str,
    bits: Bits,
) -> None:
    """Either way a runtime multiplies by the weight, rounded to so many bits."""
    monkeypatch.setattr(rounding, "PACKED_MOST", most)
    monkeypatch.setattr(int8_graph, "LARGE", 1)
    with Int8Graph(encode_graph, images, roles()) as quantizer:
        plan = PrecisionPlan(smoothing=None, layers=PrecisionPlan.default(quantizer.products).layers)
        (weight,) = [one.inputs[1] for one in quantizer.products if one.layer == "quantizer.scores"]
        quantizer.write(plan, "asymmetric", tmp_path / "stored.onnx")
        quantizer.write(plan.model_copy(update={"storage": "fp32"}), "asymmetric", tmp_path / "float.onnx")
    constants = weights_of(onnx.load(tmp_path / "stored.onnx"))
    stored, scale_O = constants[f"{weight}_{suffix}"], constants[f"{weight}_scale"]
    assert stored.dtype == (np.int8 if bits == 12 else np.int16)
    reach_O = np.abs(weights_of(onnx.load(encode_graph))[weight]).max(0)
    np.testing.assert_allclose(scale_O, reach_O / LARGEST[bits], rtol=1e-6)
    found, wanted = (run(tmp_path / name, images)["indices"] for name in ("stored.onnx", "float.onnx"))
    assert (found == wanted).mean() > 0.97
