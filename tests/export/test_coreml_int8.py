"""INT8 in Core ML packages: what is really INT8, with which numbers, and that the evaluator sees the gate kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from coreml_packages import converted, job_of
from numpy.typing import NDArray

from vqrae.calibration.plan import LayerPrecision, PrecisionPlan
from vqrae.calibration.recipe import GraphRecipe, Int8Recipe
from vqrae.export.batch import Batch
from vqrae.export.build import BundleBuilder
from vqrae.export.form import FORMS
from vqrae.export.formats import Target, target
from vqrae.export.formats.coreml import CoreMLOptions, int8
from vqrae.export.formats.coreml.package import write_package
from vqrae.export.formats.coreml.readback import built_int8
from vqrae.export.pt2 import program_from_plan, write_program
from vqrae.export.verify import VerifyRow
from vqrae.runtimes.backends.coreml_evaluator import Evaluator
from vqrae.runtimes.backends.coreml_spec import matrix_products, operations, product_precisions, read_spec
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import RuntimeUnavailable, UsageError
from vqrae.runtimes.precision import PRECISIONS
from vqrae.runtimes.selftest import selftest

WHOLE = ("int8", "int8-weights")
pytestmark = pytest.mark.slow  # each graph is run operation by operation


class Built(NamedTuple):
    path: Path
    row: VerifyRow


@pytest.fixture(scope="module")
def bundles(int8_builder: BundleBuilder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """Precision -> its bundle; not to be changed."""
    folder = tmp_path_factory.mktemp("coreml")
    made = {}
    for name in WHOLE:
        row = int8_builder.build(target("coreml", name), folder)
        made[name] = Built(Path(row.bundle), row)
    return made


# --- what a bundle says ---


@pytest.mark.parametrize("name", WHOLE)
def test_the_evaluator_sees_the_gate_kept_and_no_speed_is_claimed(bundles: dict[str, Built], name: str) -> None:
    path, row = bundles[name]
    assert (row.executed, row.means, row.gate, row.misses, row.speedup) == (True, "evaluator", "pass", (), None)
    assert row.figures is not None
    assert 0 < row.figures.excess_distortion <= PRECISIONS["int8"].limits.max_excess_distortion
    assert PRECISIONS["int8"].limits.min_decode_psnr_db <= row.figures.decode_psnr_db < 55, "not what FP16 gives"
    assert selftest(path).gate == "pass"


def test_the_manifest_says_how_much_is_int8_and_what_it_was_calibrated_on(
    bundles: dict[str, Built], int8_builder: BundleBuilder
) -> None:
    manifest = Bundle.open(bundles["int8"].path).manifest
    whole = 16 * 32 * (192 + 64 + 192) + 4 * (16 * 32 * 256 + 2 * 16 * 16 * 32)
    assert manifest.precision.int8_share == pytest.approx(4 * 16 * 32 * 256 / whole)
    assert manifest.precision.title == "INT8"
    assert manifest.evidence.precision == "float16 ×5, float32 ×1, int8 ×8"
    assert manifest.calibration == int8_builder.sources.int8.provenance(64)
    kept = {entry.layer for entry in manifest.precision.kept_float}
    assert kept == {"patch_embedding", "queries_keys", "weights_values", "scores", "head"}
    assert PrecisionPlan.read(bundles["int8"].path / "plan.json") == PrecisionPlan.default(
        int8_builder.sources.int8.all_products
    )


def test_weights_alone_need_no_calibration(bundles: dict[str, Built]) -> None:
    manifest = Bundle.open(bundles["int8-weights"].path).manifest
    assert (manifest.calibration, manifest.precision.int8_share) == (None, None)
    assert manifest.precision.title == "INT8 weights"
    assert manifest.evidence.precision == "float16 ×5, float16 with int8 weights ×8, float32 ×1"


def test_weights_are_stored_as_bytes(bundles: dict[str, Built]) -> None:
    for name in WHOLE:
        for graph in ("encode", "decode"):
            spec = read_spec(bundles[name].path / f"{graph}.mlpackage")
            assert sum(operation.type == "constexpr_affine_dequantize" for operation in operations(spec)) == 8
            assert sum(operation.type == "quantize" for operation in operations(spec)) == 8 * (name == "int8")


# --- the numbers in it ---


class Program:
    """A loaded package, run so that every value can be asked for."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vqrae.runtimes.backends.coreml_evaluator._clear", lambda _: None)
        self._evaluator = Evaluator(path, read_spec(path))
        self.operations = [operation for operation, _ in self._evaluator._steps]
        self.products = [operation for operation in self.operations if operation.op_type in ("linear", "matmul")]

    def run(self, name: str, feed: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        return self._evaluator.run({name: feed})


def plan_of(builder: BundleBuilder, **changes: Any) -> PrecisionPlan:
    return PrecisionPlan.model_validate(PrecisionPlan.default(builder.sources.int8.all_products).model_dump() | changes)


def everywhere(builder: BundleBuilder) -> dict[str, LayerPrecision]:
    """Every layer that INT8 may multiply."""
    return {product.layer: "int8" for product in builder.sources.int8.all_products if product.role != "scores"}


def packaged(builder: BundleBuilder, name: str, folder: Path, wanted: Target, **changes: Any) -> Path:
    """One graph's package, by a recipe with changes."""
    plan = wanted.plan or PrecisionPlan.default(builder.sources.int8.all_products)
    form = FORMS["fp16" if plan.storage == "compact" else "fp32"]
    recipe = replace(builder.sources.int8.recipe(plan, form.byte_scale).graphs[name], **changes)
    (graph,) = [graph for graph in builder.tokenizer.graphs(wanted.batch.axis) if graph.name == name]
    program = program_from_plan(graph, form, wanted.format.images(wanted.options), recipe.parameters)
    sources = folder / "sources"
    sources.mkdir()
    job = job_of(wanted, builder.tokenizer, sources, {name: write_program(program, graph, sources)}, folder)
    options = CoreMLOptions.model_validate(job.options)
    return folder / write_package(job, name, options, Int8Recipe(plan=plan, graphs={name: recipe})).graph.file


FLOAT: dict[str, Any] = {"reaches": {}, "corrections": {}}
"""Of smoothed weights only: the graph that ranges are of."""


@pytest.mark.parametrize("name", ["encode", "decode"])
def test_ranges_observed_in_onnx_are_those_of_the_package(
    int8_builder: BundleBuilder,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every input of every product that may be INT8, on the calibration images: the same tensors in both graphs."""
    products = int8_builder.sources.int8.products[name]
    plan = plan_of(int8_builder, storage="fp32").with_layers(everywhere(int8_builder))
    wanted = int8_builder.sources.int8.recipe(plan, 1).graphs[name].reaches
    program = Program(packaged(int8_builder, name, tmp_path, target("coreml", "int8", plan=plan), **FLOAT), monkeypatch)
    source = (
        int8_builder.sources.int8.images.images.astype(np.float32)
        if name == "encode"
        else int8_builder.sources.int8.indices
    )
    program.run("images" if name == "encode" else "indices", source)
    assert len(program.products) == len(products) == len(wanted) + (name == "encode")
    for operation, product in zip(program.products, products, strict=True):
        inputs = [operation.x] if operation.op_type == "linear" else [operation.x, operation.y]
        assert product.has_weight == (operation.op_type == "linear")
        found = [np.abs(variable.val).max() for variable in inputs]
        if product.role == "scores":
            continue
        np.testing.assert_allclose(found, wanted[product.layer], rtol=1e-4, err_msg=product.layer)


def test_smoothing_is_carried_and_changes_nothing_in_float(int8_builder: BundleBuilder, tmp_path: Path) -> None:
    plan = plan_of(int8_builder, storage="fp32")
    found = int8_builder.sources.int8.recipe(plan, 1).graphs["encode"].smoothing
    norms = {name for name in found if "norm" in name}
    assert norms == {
        f"encoder.blocks.{block}.{norm}.norm.{part}"
        for block in (0, 1)
        for norm in ("attention_norm", "mlp_norm")
        for part in ("weight", "bias")
    }
    assert found.keys() - norms == {
        f"encoder.blocks.{block}.{parameter}"
        for block in (0, 1)
        for parameter in ("query_key_value.weight", "query_key_value.bias", "out.weight", "up.weight")
    }
    path = packaged(int8_builder, "encode", tmp_path, target("coreml", "int8", plan=plan), **FLOAT)
    images = int8_builder.reference.images.astype(np.float32)
    given = Evaluator(path, read_spec(path)).run({"images": images})
    np.testing.assert_array_equal(given["indices"], int8_builder.reference.indices)
    np.testing.assert_allclose(given["features"], int8_builder.reference.features, atol=1e-4)


def test_corrected_biases_are_carried(int8_builder: BundleBuilder, tmp_path: Path) -> None:
    """The package without them is further from the reference."""
    plan = plan_of(int8_builder)
    found = int8_builder.sources.int8.recipe(plan, 1).graphs["encode"].corrections
    layers = ("query_key_value", "out", "up", "down")
    assert found.keys() == {f"encoder.blocks.{block}.{layer}.bias" for block in (0, 1) for layer in layers}
    wanted = target("coreml", "int8", plan=plan)
    errors = []
    for name, changes in (("with", {}), ("without", {"corrections": {}})):
        folder = tmp_path / name
        folder.mkdir()
        path = packaged(int8_builder, "encode", folder, wanted, **changes)
        given = Evaluator(path, read_spec(path)).run({"images": int8_builder.reference.images.astype(np.float32)})
        errors.append(np.abs((given["features"] - int8_builder.reference.features).mean((0, 1))).mean())
    assert errors[0] < errors[1]


def test_the_numbers_are_those_of_onnx(
    int8_builder: BundleBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The symmetric Q/DQ that the TensorRTs get: the same int8 weights, and scales of both; nothing is FP16."""
    monkeypatch.setattr(int8, "LARGE", 512)
    plan = plan_of(int8_builder, storage="fp32")
    path = packaged(int8_builder, "encode", tmp_path, target("coreml", "int8", plan=plan))
    assert not [each for each in operations(read_spec(path)) if each.type in ("cast", "constexpr_cast")]
    program = Program(path, monkeypatch)
    folder, specs, _ = int8_builder.sources.int8.written(plan, "symmetric", "int8")
    graph = onnx.load(folder / specs["encode"].file).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    pairs = [[makers.get(name) for name in node.input] for node in graph.node if node.op_type == "MatMul"]
    for operation, (activation, weight) in zip(program.products, pairs, strict=True):
        if activation is None or activation.op_type != "DequantizeLinear":
            assert operation.x.op is None or operation.x.op.op_type != "dequantize"
            continue
        assert weight is not None
        stored_CO, scale_O = (constants[name] for name in weight.input[:2])
        np.testing.assert_array_equal(operation.weight.op.quantized_data.val.T, stored_CO)
        np.testing.assert_allclose(operation.weight.op.scale.val, scale_O, rtol=1e-6)
        assert operation.x.op.scale.val == pytest.approx(constants[activation.input[1]], rel=1e-6)
        assert operation.x.op.input.op.scale.val == operation.x.op.scale.val


def test_large_tables_are_stored_in_fp16(
    int8_builder: BundleBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is large is less here than the default, so that this model has some."""
    monkeypatch.setattr(int8, "LARGE", 512)
    spec = read_spec(packaged(int8_builder, "encode", tmp_path, target("coreml", "int8")))
    stored = {each.outputs[0].name for each in operations(spec) if each.type == "constexpr_cast"}
    assert stored == {"p_quantizer_scores_weight_half", "b_encoder_positions_nc_half"}
    assert {product.dtype for product in matrix_products(spec)} == {"float16", "float32"}


def test_a_plan_may_ask_for_int8_everywhere(int8_builder: BundleBuilder, tmp_path: Path) -> None:
    """Products of two activations too, and bytes that FP16 scales; what that costs is not the question here."""
    plan = plan_of(int8_builder).with_layers(everywhere(int8_builder))
    path = packaged(int8_builder, "encode", tmp_path, target("coreml", "int8", plan=plan))
    assert product_precisions(read_spec(path)) == "float32 ×1, int8 ×13"
    images = int8_builder.reference.images.astype(np.float32)
    found = Evaluator(path, read_spec(path)).run({"images": images})["indices"]
    assert np.mean(found == int8_builder.reference.indices) > 0.3, "a wrong range anywhere leaves one in 64"


@pytest.mark.parametrize(
    "options", [{"batch": Batch.parse("1"), "options": {"inputs": "image"}}, {"options": {"target": "ios18"}}]
)
def test_other_packages_of_the_same(
    bundles: dict[str, Built], int8_builder: BundleBuilder, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Core ML images, and a later system."""
    image = int8_builder.reference.images[:1].astype(np.float32)
    path = packaged(int8_builder, "encode", tmp_path, target("coreml", "int8", **options))
    feed = image.transpose(0, 3, 1, 2) if "batch" in options else image
    plain = bundles["int8"].path / "encode.mlpackage"
    found, wanted = (
        Evaluator(package, read_spec(package)).run({"images": fed})["indices"]
        for package, fed in ((path, feed), (plain, image))
    )
    np.testing.assert_array_equal(found, wanted)


def test_the_same_images_and_plan_give_the_same_bytes(
    bundles: dict[str, Built], int8_builder: BundleBuilder, tmp_path: Path
) -> None:
    again = packaged(int8_builder, "decode", tmp_path, target("coreml", "int8"))
    files = [path for path in again.rglob("*") if path.is_file()]
    assert len(files) == 3
    for path in files:
        assert path.read_bytes() == (bundles["int8"].path / path.relative_to(tmp_path)).read_bytes(), path.name


# --- what is refused ---


def test_int8_that_came_out_float_is_refused(int8_builder: BundleBuilder) -> None:
    specs = {"encode": read_spec(converted("encode", "fp16")[0])}
    sources = int8_builder.sources.int8
    plan = PrecisionPlan.default(sources.all_products)
    recipe = Int8Recipe(plan=plan, graphs={"encode": GraphRecipe.of_weights(sources.products["encode"], [])})
    pairs = zip(matrix_products(specs["encode"]), sources.products["encode"], strict=True)
    layers = {built.name: product.layer for built, product in pairs}
    message = r"^encode\.mlpackage encoder\.blocks\.0\.down and 7 others: got float; expected int8, as planned$"
    with pytest.raises(RuntimeUnavailable, match=message):
        built_int8("int8", recipe, specs, {"encode": layers})


def test_a_plan_for_another_architecture_is_refused(int8_builder: BundleBuilder, tmp_path: Path) -> None:
    plan = plan_of(int8_builder).with_layers({"encoder.blocks.9.out": "int8"})
    with pytest.raises(UsageError, match=r"layer of the plan: got 'encoder\.blocks\.9\.out'"):
        int8_builder.build(target("coreml", "int8", plan=plan), tmp_path / "out")


def test_the_parts_are_not_int8() -> None:
    with pytest.raises(UsageError, match="--split of coreml at int8: got the parts"):
        target("coreml", "int8", split=True)
