"""INT8 for TensorRT-RTX: compiled here for real from symmetric Q/DQ, its graphs executed by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from vqrae.calibration.layers import int8_layers
from vqrae.calibration.lint import lint
from vqrae.calibration.plan import PrecisionPlan
from vqrae.export.batch import Batch
from vqrae.export.build import BundleBuilder, check_target
from vqrae.export.formats import target
from vqrae.export.formats.tensorrt import TensorRTRTX
from vqrae.export.verify import VerifyRow
from vqrae.runtimes.backends.tensorrt import cuda
from vqrae.runtimes.backends.tensorrt.layers import LayerTable, product_counts
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import GateFailure, RuntimeUnavailable
from vqrae.runtimes.manifest import BatchLimits
from vqrae.runtimes.precision import PRECISIONS, Budget, PrecisionName
from vqrae.runtimes.rebuild import rebuild

pytestmark = pytest.mark.skipif(bool(cuda.all_gpus()), reason="with an NVIDIA GPU, speed is judged too")
INT8_KINDS = ("query_key_value", "out", "up", "down")


class Built(NamedTuple):
    bundle: Bundle
    row: VerifyRow


@pytest.fixture(scope="module")
def bundles(int8_builder: BundleBuilder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """Precision -> its bundle; not to be changed."""
    folder = tmp_path_factory.mktemp("engines")
    made = {}
    for precision in ("int8", "int8-weights"):
        wanted = target("tensorrt-rtx", precision, batch=Batch.parse("1:2:4"))
        check_target(wanted)
        row = int8_builder.build(wanted, folder)
        made[precision] = Built(Bundle.open(row.bundle), row)
    return made


def table(bundle: Bundle, graph: str) -> LayerTable:
    return LayerTable.model_validate_json((bundle.path / f"{graph}.layers.json").read_bytes())


def test_the_products_of_the_plan_multiply_int8(bundles: dict[str, Built], int8_builder: BundleBuilder) -> None:
    """In the network that was compiled: eight of each graph, and the scores and attention's own products do not."""
    bundle = bundles["int8"].bundle
    assert product_counts(table(bundle, "encode").network) == {"INT8": 8, "FLOAT": 6}
    assert product_counts(table(bundle, "decode").network) == {"INT8": 8, "FLOAT": 5}
    whole = {layer.origins[0] for layer in table(bundle, "encode").network if layer.product_type == "INT8"}
    assert whole == {f"encoder.blocks.{block}.{kind}" for block in (0, 1) for kind in INT8_KINDS}
    products = int8_builder.sources.int8.products["encode"]
    assert set(int8_layers(bundle.path / "encode.onnx", products)) == whole


def test_stored_weights_are_multiplied_as_floats(bundles: dict[str, Built]) -> None:
    network = table(bundles["int8-weights"].bundle, "encode").network
    assert product_counts(network) == {"FLOAT": 14}
    stored = [layer for layer in network if layer.product_type is not None and layer.dequantized == 1]
    assert len(stored) == 8


@pytest.mark.parametrize("precision", ["int8", "int8-weights"])
def test_the_graphs_pass_the_linter(bundles: dict[str, Built], precision: str) -> None:
    for name in ("encode", "decode"):
        assert lint(bundles[precision].bundle.path / f"{name}.onnx") == []


@pytest.mark.parametrize("precision", ["int8", "int8-weights"])
def test_it_is_compiled_and_not_executed_and_its_graphs_are(
    bundles: dict[str, Built], precision: PrecisionName
) -> None:
    bundle, row = bundles[precision]
    evidence = bundle.manifest.evidence
    assert (evidence.executed, evidence.gate, evidence.figures) == (False, "not-executed", None)
    assert evidence.source is not None
    assert (evidence.source.runtime, evidence.source.gate) == ("onnxruntime", "pass")
    assert 0 < evidence.source.figures.excess_distortion <= PRECISIONS[precision].limits.max_excess_distortion
    assert (row.gate, row.source_gate, row.misses) == ("not-executed", "pass", ())
    assert row.speedup is None, "not measured, so neither passed nor refused"
    assert bundle.manifest.graphs["encode"].batch_limits == BatchLimits(least=1, best=2, most=4)


def test_what_the_bundles_call_themselves(bundles: dict[str, Built]) -> None:
    manifest = bundles["int8"].bundle.manifest
    assert (manifest.name, manifest.precision.title) == ("test-siglip-tensorrt-rtx-int8", "INT8")
    assert manifest.calibration is not None
    assert manifest.precision.int8_share == pytest.approx(0.64, abs=0.01)
    manifest = bundles["int8-weights"].bundle.manifest
    assert (manifest.name, manifest.precision.title) == ("test-siglip-tensorrt-rtx-int8-weights", "INT8 weights")
    assert (manifest.calibration, manifest.precision.int8_share) == (None, None)
    for precision, activations in (("int8", "int8"), ("int8-weights", "float")):
        assert PrecisionPlan.read(bundles[precision].bundle.path / "plan.json").activations == activations


def test_a_budget_that_its_graphs_miss_writes_nothing(int8_builder: BundleBuilder, tmp_path: Path) -> None:
    wanted = target("tensorrt-rtx", "int8-weights", budget=Budget(max_excess_distortion=0.0))
    with pytest.raises(GateFailure, match=r"int8-weights: got excess distortion .*, gate <= 0%"):
        int8_builder.build(wanted, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_the_linter_refuses_is_not_compiled(
    int8_builder: BundleBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ONNX Runtime and OpenVINO are given."""
    monkeypatch.setattr(TensorRTRTX, "scheme", "asymmetric")
    with pytest.raises(RuntimeUnavailable, match=r"^encode\.onnx, node .*: got uint8 numbers \(and \d+ other findings"):
        int8_builder.build(target("tensorrt-rtx", "int8"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_one_layer_is_compiled_as_it_says(int8_builder: BundleBuilder, tmp_path: Path) -> None:
    """One of its kind, so that the others are named in the manifest one by one."""
    default = PrecisionPlan.default(int8_builder.sources.int8.all_products)
    plan = default.with_layers(dict.fromkeys(default.layers, "float") | {"encoder.blocks.1.up": "int8"})
    row = int8_builder.build(target("tensorrt-rtx", "int8", plan=plan), tmp_path)
    bundle = Bundle.open(row.bundle)
    assert product_counts(table(bundle, "encode").network) == {"INT8": 1, "FLOAT": 13}
    assert product_counts(table(bundle, "decode").network) == {"FLOAT": 13}
    assert bundle.manifest.precision.title.startswith("mixed")
    rebuilt = rebuild(bundle.path)
    assert product_counts(table(rebuilt, "encode").network) == {"INT8": 1, "FLOAT": 13}
