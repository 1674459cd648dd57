"""Bundles whose weights alone are INT8: no images to calibrate on, less to store, and floats multiplied as before."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import openvino
import pytest

from vqrae.calibration.plan import PrecisionPlan
from vqrae.calibration.weights import store_constants
from vqrae.export.build import BundleBuilder
from vqrae.export.formats import target
from vqrae.export.speed import GraphSpeed
from vqrae.export.verify import VerifyRow
from vqrae.runtimes.backends.onnxruntime import OnnxRuntimeSession
from vqrae.runtimes.backends.openvino import AS_THE_GRAPH_SAYS
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.precision import PRECISIONS
from vqrae.runtimes.sealed import Sealed
from vqrae.runtimes.selftest import selftest

FORMATS = ("onnx", "openvino")
SLOW = GraphSpeed(int8_ms=2.0, float_ms=1.0, float_precision="fp32", speedup=0.5)


class Built(NamedTuple):
    path: Path
    row: VerifyRow


@pytest.fixture(scope="module")
def bundles(builder: BundleBuilder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """Format -> its bundle, by a builder without calibration images, timed for real; not to be changed."""
    folder = tmp_path_factory.mktemp("weights")
    made = {}
    for name in FORMATS:
        row = builder.build(target(name, "int8-weights"), folder)
        made[name] = Built(Path(row.bundle), row)
    return made


@pytest.mark.parametrize("name", FORMATS)
def test_the_bundle_says_what_it_is(bundles: dict[str, Built], name: str) -> None:
    path, row = bundles[name]
    manifest = Bundle.open(path).manifest
    assert (path.name, manifest.precision.title) == (f"test-siglip-{name}-int8-weights", "INT8 weights")
    assert (manifest.calibration, manifest.precision.int8_share, row.int8_share) == (None, None, None)
    plan = PrecisionPlan.read(path / "plan.json")
    assert (plan.activations, plan.smoothing) == ("float", None)
    assert {entry.layer: entry.reason for entry in manifest.precision.kept_float} == {
        "patch_embedding": "too few weights to gain from it",
        "queries_keys": "it has no weights to store",
        "weights_values": "it has no weights to store",
        "scores": "neighboring codes differ by less than INT8 resolves",
        "head": "its rounding is seen in every pixel",
    }


@pytest.mark.parametrize("name", FORMATS)
def test_the_bundle_keeps_the_gate_of_int8(bundles: dict[str, Built], name: str) -> None:
    path, row = bundles[name]
    assert (row.executed, row.gate, row.misses) == (True, "pass", ())
    assert row.figures is not None
    assert (
        0
        < row.figures.excess_distortion
        <= PRECISIONS["int8-weights"].limits.max_excess_distortion
        == PRECISIONS["int8"].limits.max_excess_distortion
    )
    assert row.figures.decode_psnr_db < 60, "not what float gives"
    assert selftest(path).gate == "pass"


def test_both_runtimes_multiply_the_same_floats(bundles: dict[str, Built]) -> None:
    """ONNX Runtime would round the activations too, unless it is told not to."""
    one, other = (bundles[name].row.figures for name in FORMATS)
    assert one is not None
    assert other is not None
    assert one.excess_distortion == pytest.approx(other.excess_distortion, rel=0.02)
    assert one.decode_psnr_db == pytest.approx(other.decode_psnr_db, abs=0.2)


def test_onnx_runtime_computes_what_the_graph_says(
    bundles: dict[str, Built], builder: BundleBuilder, tmp_path: Path
) -> None:
    """Against the same numbers stored as floats."""
    path = bundles["onnx"].path
    model = onnx.load(path / "encode.onnx")
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "DequantizeLinear"]:
        stored, scale = (constants[name] for name in node.input)
        weight = (stored * scale).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, node.output[0]))
        model.graph.node.remove(node)
    onnx.save(model, tmp_path / "encode.onnx")
    images = builder.reference.images
    manifest = Bundle.open(path).manifest
    found, wanted = (
        session.run({"images": images})["features"]
        for folder in (path, tmp_path)
        for session in [
            OnnxRuntimeSession.open(Sealed.in_place(folder), manifest.graphs["encode"], LoadOptions(), manifest.runtime)
        ]
    )
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_openvino_keeps_the_weights_as_bytes(bundles: dict[str, Built]) -> None:
    """In the file and once compiled, and each is multiplied by a product of floats."""
    path = bundles["openvino"].path / "encode.xml"
    constants = [node for node in openvino.Core().read_model(path).get_ops() if node.get_type_name() == "Constant"]
    assert sum(node.get_element_type() == openvino.Type.i8 for node in constants) == 8
    compiled = openvino.Core().compile_model(path, "CPU", AS_THE_GRAPH_SAYS)
    inputs = [
        [port.get_element_type().get_type_name() for port in node.inputs()][:2]
        for node in compiled.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].value == "FullyConnected"
    ]
    assert inputs.count(["f32", "i8"]) == 8


@pytest.mark.parametrize("name", FORMATS)
def test_speed_is_told_and_not_judged(
    bundles: dict[str, Built], builder: BundleBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Size is what is won."""
    row = bundles[name].row
    assert row.speedup is not None
    assert set(row.speedup) == {"encode", "decode"}
    assert all(times > 0 for times in row.speedup.values())
    monkeypatch.setattr(builder, "timing", lambda *_: {"encode": SLOW, "decode": SLOW})
    row = builder.build(target(name, "int8-weights"), tmp_path)
    assert (row.gate, row.misses, row.speedup) == ("pass", (), {"encode": 0.5, "decode": 0.5})


def test_a_plan_that_stores_one_layer(builder: BundleBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "timing", lambda *_: {})
    default = PrecisionPlan.default(builder.sources.int8.all_products, "float")
    plan = default.with_layers(dict.fromkeys(default.layers, "float") | {"quantizer.scores": "int8"})
    row = builder.build(target("onnx", "int8-weights", plan=plan), tmp_path, allow_gate_failure=True)
    model = onnx.load(Path(row.bundle) / "encode.onnx")
    (stored,) = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert list(stored.dims) == [32, 64]


def test_large_tables_are_stored_compactly_unless_a_plan_says_otherwise(
    builder: BundleBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is large is less here than the default, so that this model has some."""
    monkeypatch.setattr(builder, "timing", lambda *_: {})
    monkeypatch.setattr("vqrae.export.int8_onnx.store_constants", partial(store_constants, least=2048))
    default = PrecisionPlan.default(builder.sources.int8.all_products, "float")
    assert default.storage == "compact"
    whole = [onnx.TensorProto.INT8, onnx.TensorProto.FLOAT]  # and its scales
    for storage, wanted in (("compact", whole), ("fp32", [onnx.TensorProto.FLOAT])):
        plan = PrecisionPlan.model_validate(default.model_dump() | {"storage": storage})
        row = builder.build(target("onnx", "int8-weights", plan=plan), tmp_path, overwrite=True)
        graph = onnx.load(Path(row.bundle) / "decode.onnx").graph
        tables = [tensor for tensor in graph.initializer if "table_KC" in tensor.name]
        assert [tensor.data_type for tensor in tables] == wanted


def test_openvino_takes_the_compact_tables_as_they_are_meant(
    builder: BundleBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes rows of an INT8 table in a way of its own."""
    monkeypatch.setattr(builder, "timing", lambda *_: {})
    monkeypatch.setattr("vqrae.export.int8_onnx.store_constants", partial(store_constants, least=2048))
    row = builder.build(target("openvino", "int8-weights"), tmp_path)
    assert row.figures is not None
    assert row.figures.decode_psnr_db > 45


# --- what is refused ---


def test_a_layer_without_weights_cannot_be_stored(builder: BundleBuilder, tmp_path: Path) -> None:
    layer = "encoder.blocks.0.attention.queries_keys"
    plan = PrecisionPlan.default(builder.sources.int8.all_products, "float").with_layers({layer: "int8"})
    message = rf"^layer {layer} of the plan: got int8; expected float: it has no weights to store"
    with pytest.raises(UsageError, match=message):
        builder.build(target("onnx", "int8-weights", plan=plan), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_plan_is_for_int8_products_or_for_weights() -> None:
    message = (
        "plan of onnx at {}: got activations: {}; expected activations: {}; give a plan of that precision, or none"
    )
    with pytest.raises(UsageError, match=message.format("int8", "float", "int8")):
        target("onnx", "int8", plan=PrecisionPlan(activations="float", layers={}))
    with pytest.raises(UsageError, match=message.format("int8-weights", "int8", "float")):
        target("onnx", "int8-weights", plan=PrecisionPlan(layers={}))
