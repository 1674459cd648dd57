"""INT8 bundles of a small model: what they say of themselves, and what is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest

from vqrae.calibration.images import CalibrationImages
from vqrae.calibration.layers import int8_layers
from vqrae.calibration.lint import lint
from vqrae.calibration.plan import PrecisionPlan, Scheme
from vqrae.calibration.weights import store_constants
from vqrae.export.batch import Batch
from vqrae.export.build import BundleBuilder
from vqrae.export.formats import target
from vqrae.export.reference import reference_from_model
from vqrae.export.speed import GraphSpeed
from vqrae.export.verify import VerifyRow, gather_evidence
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import DataError, GateFailure, UsageError
from vqrae.runtimes.precision import PRECISIONS, Budget
from vqrae.runtimes.selftest import selftest
from vqrae.runtimes.tokenizer import load

FORMATS = ("onnx", "openvino")
FAST = {
    "encode": GraphSpeed(int8_ms=1.0, float_ms=2.0, float_precision="fp32", speedup=2.0),
    "decode": GraphSpeed(int8_ms=1.0, float_ms=1.5, float_precision="fp16", speedup=1.5),
}
IMPOSSIBLE = Budget(max_source_psnr_drop_db=-1.0)


class Built(NamedTuple):
    path: Path
    row: VerifyRow


@pytest.fixture(scope="module")
def bundles(int8_builder: BundleBuilder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """Format -> its INT8 bundle; timed for real, which at this size INT8 may lose. Not to be changed."""
    folder = tmp_path_factory.mktemp("int8")
    made = {}
    for name in FORMATS:
        row = int8_builder.build(target(name, "int8"), folder, allow_gate_failure=True)
        made[name] = Built(Path(row.bundle), row)
    return made


@pytest.fixture
def fast(int8_builder: BundleBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a larger model sees: INT8 is faster."""
    monkeypatch.setattr(int8_builder, "timing", lambda *_: FAST)


# --- what is built ---


@pytest.mark.parametrize("name", FORMATS)
def test_the_manifest_says_what_it_was_calibrated_on(
    bundles: dict[str, Built], calibration: CalibrationImages, int8_builder: BundleBuilder, name: str
) -> None:
    manifest = Bundle.open(bundles[name].path).manifest
    assert manifest.name == f"test-siglip-{name}-int8"
    made = manifest.calibration
    assert made is not None
    assert (made.image_sha256, made.count, made.seed) == (calibration.sha256, 8, 5)
    used = np.unique(int8_builder.sources.int8.indices)
    assert made.codebook_coverage == len(used) / 64
    assert made.plan == "plan.json"
    assert made.plan in {entry.path for entry in manifest.files}


@pytest.mark.parametrize("name", FORMATS)
def test_the_manifest_says_how_much_is_int8(bundles: dict[str, Built], int8_builder: BundleBuilder, name: str) -> None:
    """By hand: four blocks without their attentions, 16 · 32 · 256 each, and for OpenVINO queries × keys of each; of
    everything that the graphs multiply."""
    path, row = bundles[name]
    precision = Bundle.open(path).manifest.precision
    whole = 16 * 32 * (192 + 64 + 192) + 4 * (16 * 32 * 256 + 2 * 16 * 16 * 32)
    attention = 4 * 16 * 16 * 32 if name == "openvino" else 0
    assert precision.int8_share == pytest.approx((4 * 16 * 32 * 256 + attention) / whole)
    assert row.int8_share == precision.int8_share
    assert (precision.name, precision.title, precision.budget) == ("int8", "INT8", None)
    kept = {entry.layer for entry in precision.kept_float}
    assert kept - {"queries_keys"} == {"patch_embedding", "weights_values", "scores", "head"}
    assert ("queries_keys" in kept) == (name != "openvino")
    assert PrecisionPlan.read(path / "plan.json") == target(name, "int8").chosen_plan(
        int8_builder.sources.int8.all_products
    )


def test_what_the_onnx_files_hold_is_what_the_manifest_says(
    bundles: dict[str, Built], int8_builder: BundleBuilder
) -> None:
    path = bundles["onnx"].path
    found = [
        layer
        for name, products in int8_builder.sources.int8.products.items()
        for layer in int8_layers(path / f"{name}.onnx", products)
    ]
    planned = PrecisionPlan.read(path / "plan.json").int8(int8_builder.sources.int8.all_products)
    assert found == [product.layer for product in planned]
    assert len(found) == 16


def test_the_openvino_files_hold_int8(bundles: dict[str, Built]) -> None:
    """Weights as bytes: a quarter of the room, and eight rounded matrices in each graph."""
    for name in ("encode", "decode"):
        text = (bundles["openvino"].path / f"{name}.xml").read_text()
        assert text.count('element_type="i8"') >= 8
        assert text.count('type="FakeQuantize"') + text.count("QuantizeLinear") >= 8


@pytest.mark.parametrize("name", FORMATS)
def test_the_bundle_keeps_the_gate_of_int8(bundles: dict[str, Built], name: str) -> None:
    row = bundles[name].row
    assert not [miss for miss in row.misses if "gate" in miss], "only speed may be missed"
    assert row.executed
    assert row.figures is not None
    assert 0 <= row.figures.excess_distortion <= PRECISIONS["int8"].limits.max_excess_distortion
    assert PRECISIONS["int8"].limits.min_decode_psnr_db <= row.figures.decode_psnr_db < 60, "not what float gives"


@pytest.mark.parametrize("name", FORMATS)
def test_the_bundle_loads_and_encodes(bundles: dict[str, Built], int8_builder: BundleBuilder, name: str) -> None:
    reference = int8_builder.reference
    with load(bundles[name].path) as tokenizer:
        indices = tokenizer.encode(reference.images).indices
        decoded = tokenizer.decode(indices)
        assert gather_evidence(tokenizer, reference).figures == tokenizer.manifest.evidence.figures
    assert (indices.dtype, indices.shape) == (np.int32, reference.indices.shape)
    assert (indices == reference.indices).mean() > 0.9
    assert decoded.shape == reference.images.shape
    assert selftest(bundles[name].path).gate == "pass"


@pytest.mark.parametrize("name", FORMATS)
def test_both_graphs_are_timed_against_float(bundles: dict[str, Built], name: str) -> None:
    """For real, whichever is faster; what is slower is a miss, and nothing else is."""
    row = bundles[name].row
    assert row.speedup is not None
    assert set(row.speedup) == {"encode", "decode"}
    assert all(times > 0 for times in row.speedup.values())
    assert [miss.split()[0] for miss in row.misses] == [graph for graph, times in row.speedup.items() if times <= 1]
    assert (row.gate == "fail") == bool(row.misses)


def test_a_row_tells_how_many_of_the_codes_the_images_use(
    bundles: dict[str, Built], int8_builder: BundleBuilder
) -> None:
    """This model was never trained: most codes are never chosen."""
    coverage = len(np.unique(int8_builder.sources.int8.indices)) / 64
    assert 0 < coverage < 0.1
    assert {made.row.codebook_coverage for made in bundles.values()} == {coverage}


def test_the_decoder_is_calibrated_on_the_encoder_s_tokens(
    int8_builder: BundleBuilder, calibration: CalibrationImages
) -> None:
    wanted = reference_from_model(int8_builder.tokenizer, calibration.images).indices
    np.testing.assert_array_equal(int8_builder.sources.int8.indices, wanted)


# --- plans ---


@pytest.mark.usefixtures("fast")
def test_a_bundle_s_plan_makes_the_same_bundle(
    bundles: dict[str, Built], int8_builder: BundleBuilder, tmp_path: Path
) -> None:
    old = bundles["onnx"].path
    row = int8_builder.build(target("onnx", "int8", plan=PrecisionPlan.read(old / "plan.json")), tmp_path)
    for name in ("plan.json", "encode.onnx", "encode.onnx.data", "decode.onnx", "decode.onnx.data"):
        assert (Path(row.bundle) / name).read_bytes() == (old / name).read_bytes()


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("name", FORMATS)
def test_a_plan_of_few_layers_is_called_mixed(int8_builder: BundleBuilder, tmp_path: Path, name: str) -> None:
    few = {"encoder.blocks.0.up", "decoder.blocks.1.down"}
    products = int8_builder.sources.int8.all_products
    plan = PrecisionPlan(layers={product.layer: "int8" if product.layer in few else "float" for product in products})
    row = int8_builder.build(target(name, "int8", plan=plan), tmp_path)
    bundle = Bundle.open(Path(row.bundle))
    assert PrecisionPlan.read(bundle.path / "plan.json") == plan
    assert bundle.manifest.precision.title == "mixed 8%"
    reasons = {kept.layer: kept.reason for kept in bundle.manifest.precision.kept_float}
    assert reasons["query_key_value"] == "the plan keeps it"
    assert reasons["decoder.blocks.0.up, decoder.blocks.1.up, encoder.blocks.1.up"] == "the plan keeps it"


@pytest.mark.usefixtures("fast")
def test_a_plan_may_leave_the_decoder_in_float(int8_builder: BundleBuilder, tmp_path: Path) -> None:
    products = int8_builder.sources.int8.all_products
    default = PrecisionPlan.default(products)
    plan = default.with_layers({product.layer: "float" for product in products if product.layer.startswith("decoder")})
    row = int8_builder.build(target("onnx", "int8", plan=plan), tmp_path)
    assert row.int8_share == pytest.approx(0.32)


def test_a_plan_of_another_architecture_writes_nothing(int8_builder: BundleBuilder, tmp_path: Path) -> None:
    default = PrecisionPlan.default(int8_builder.sources.int8.all_products)
    unknown = default.with_layers({"encoder.blocks.9.up": "int8"})
    with pytest.raises(UsageError, match=r"layer of the plan: got 'encoder.blocks.9.up'; .*did you mean encoder.block"):
        int8_builder.build(target("onnx", "int8", plan=unknown), tmp_path / "out")
    with pytest.raises(DataError, match=r"layers of the plan: got nothing about .* and 26 others"):
        int8_builder.build(target("onnx", "int8", plan=PrecisionPlan(layers={})), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_large_tables_are_stored_in_fewer_bytes(int8_builder: BundleBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large is less here than the default, so that this model has some; the products are INT8 as before."""
    monkeypatch.setattr("vqrae.export.int8_onnx.store_constants", partial(store_constants, least=2048))
    plan = PrecisionPlan.default(int8_builder.sources.int8.all_products)
    schemes: tuple[tuple[Scheme, int], ...] = (
        ("asymmetric", onnx.TensorProto.INT8),
        ("symmetric", onnx.TensorProto.FLOAT16),
    )
    for scheme, stored in schemes:
        folder, _, precision = int8_builder.sources.int8.written(plan, scheme, "int8")
        graph = onnx.load(folder / "decode.onnx").graph
        (table,) = [
            tensor for tensor in graph.initializer if "table_KC" in tensor.name and not tensor.name.endswith("_scale")
        ]
        assert table.data_type == stored
        assert precision.int8_share == pytest.approx(0.64, abs=0.01)
    assert lint(folder / "decode.onnx") == []


# --- budgets and speed ---


@pytest.mark.usefixtures("fast")
def test_a_budget_that_is_kept_is_in_the_manifest(int8_builder: BundleBuilder, tmp_path: Path) -> None:
    budget = Budget(max_excess_distortion=0.001, max_source_psnr_drop_db=0.05)
    row = int8_builder.build(target("onnx", "int8", budget=budget), tmp_path)
    assert (row.gate, row.misses) == ("pass", ())
    manifest = Bundle.open(Path(row.bundle)).manifest
    assert manifest.precision.budget == budget
    assert (manifest.evidence.gate, manifest.evidence.gate_failure_allowed) == ("pass", False)
    assert row.speedup == {"encode": 2.0, "decode": 1.5}


@pytest.mark.usefixtures("fast")
def test_a_budget_that_is_missed_writes_nothing(int8_builder: BundleBuilder, tmp_path: Path) -> None:
    message = r"int8: got PSNR .* dB.*, gate <= -1 dB; pass --allow-gate-failure"
    with pytest.raises(GateFailure, match=message):
        int8_builder.build(target("onnx", "int8", budget=IMPOSSIBLE), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fast")
def test_an_allowed_miss_is_marked_and_missed_again_when_it_is_judged_again(
    int8_builder: BundleBuilder, tmp_path: Path
) -> None:
    row = int8_builder.build(target("onnx", "int8", budget=IMPOSSIBLE), tmp_path, allow_gate_failure=True)
    assert row.gate == "fail"
    with load(Path(row.bundle)) as tokenizer:
        evidence = tokenizer.manifest.evidence
        assert (evidence.gate, evidence.gate_failure_allowed) == ("fail", True)
        assert gather_evidence(tokenizer, int8_builder.reference).gate == "fail", "its budget is in the manifest"


@pytest.mark.parametrize("name", FORMATS)
def test_int8_that_is_slower_than_float_is_refused(
    int8_builder: BundleBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    slow = GraphSpeed(int8_ms=2.04, float_ms=1.5, float_precision="fp16", speedup=0.75)
    monkeypatch.setattr(int8_builder, "timing", lambda *_: FAST | {"decode": slow})
    message = rf"test-siglip-{name}-int8: got decode 2\.0 ms at INT8, 1\.5 ms at FP16; pass --allow-gate-failure"
    with pytest.raises(GateFailure, match=message):
        int8_builder.build(target(name, "int8"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    row = int8_builder.build(target(name, "int8"), tmp_path, allow_gate_failure=True)
    assert (row.gate, row.speedup) == ("fail", {"encode": 2.0, "decode": 0.75})
    evidence = Bundle.open(Path(row.bundle)).manifest.evidence
    assert (evidence.gate, evidence.gate_failure_allowed) == ("fail", True)


@pytest.mark.parametrize("speedup", [1.0, float("nan")])
def test_int8_that_is_no_faster_is_no_gain(
    int8_builder: BundleBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speedup: float
) -> None:
    same = GraphSpeed(int8_ms=1.0, float_ms=1.0, float_precision="fp32", speedup=speedup)
    monkeypatch.setattr(int8_builder, "timing", lambda *_: FAST | {"encode": same})
    with pytest.raises(GateFailure, match=r"got encode 1\.0 ms at INT8, 1\.0 ms at FP32; pass"):
        int8_builder.build(target("onnx", "int8"), tmp_path)


def test_the_files_that_int8_is_timed_against_are_thrown_away(bundles: dict[str, Built]) -> None:
    """Nothing of FP32 or FP16 is left in the bundle."""
    names = {entry.path for entry in Bundle.open(bundles["onnx"].path).manifest.files}
    graphs = {f"{graph}.onnx{suffix}" for graph in ("encode", "decode") for suffix in ("", ".data")}
    assert {name for name in names if not name.startswith("golden")} == {*graphs, "plan.json"}


# --- what is refused ---


def test_int8_without_calibration_images(builder: BundleBuilder, tmp_path: Path) -> None:
    message = "int8: got no calibration images; expected some; pass --calibration FOLDER"
    with pytest.raises(UsageError, match=message):
        builder.build(target("onnx", "int8"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["int8", "int8-weights"])
def test_a_target_that_int8_cannot_be(precision: str) -> None:
    with pytest.raises(UsageError, match=f"batch of onnx at {precision}: got fixed at 4; expected dynamic"):
        target("onnx", precision, batch=Batch.parse("4"))
    for name in ("openvino", "tensorrt"):
        with pytest.raises(UsageError, match=f"--split of {name} at {precision}: got the parts; expected the whole"):
            target(name, precision, split=True)


def test_plans_and_budgets_are_for_int8() -> None:
    message = "precision of onnx: got a plan or a budget for fp16; expected int8 or int8-weights"
    for extra in ({"plan": PrecisionPlan(layers={})}, {"budget": IMPOSSIBLE}):
        with pytest.raises(UsageError, match=message):
            target("onnx", "fp16", **extra)
