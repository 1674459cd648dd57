"""Engines that TensorRT-RTX builds here from real graphs, without a GPU. What only TensorRT does is told to a stand-in,
because TensorRT cannot be installed here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import tensorrt_rtx
from fake_gpu import FakeCudart
from onnx import TensorProto, helper
from tiny_models import tiny_model

from vqrae.calibration.layers import node_layers
from vqrae.export.build import BundleBuilder
from vqrae.export.form import FORMS
from vqrae.export.onnx_graph import graph_from_plan, traced_precision
from vqrae.export.tokenizers.vqrae import graph_plans
from vqrae.runtimes.backends.tensorrt import cuda
from vqrae.runtimes.backends.tensorrt.api import EngineApi
from vqrae.runtimes.backends.tensorrt.builder import EngineBuilder, TimingCache, building_gpu
from vqrae.runtimes.backends.tensorrt.layers import (
    EngineLayer,
    LayerTable,
    check_products,
    inspected_layers,
    product_counts,
    read_origins,
)
from vqrae.runtimes.backends.tensorrt.recipe import EngineRecipe
from vqrae.runtimes.backends.tensorrt.tensorrt_rtx import API
from vqrae.runtimes.backends.tensorrt.ties import this_platform
from vqrae.runtimes.errors import BundleError, RuntimeUnavailable, UsageError
from vqrae.runtimes.manifest import BatchLimits, GraphSpec, RuntimeInfo, TensorSpec
from vqrae.runtimes.precision import Precision, PrecisionName

RECIPE = EngineRecipe(workspace_mb=256, compute_capabilities=("8.0", "8.6", "8.9", "12.0"))
LIMITS = BatchLimits(least=1, best=2, most=4)
PRODUCTS = 14
"""Patch embedding and scores; in each of two blocks QKV, two of the attention, its projection, up and down."""
PLAIN = EngineApi(name="tensorrt", title="TensorRT", trt=tensorrt_rtx, portable=False)
"""What TensorRT's own module would be in."""
Traced = dict[PrecisionName, tuple[Path, GraphSpec]]


@pytest.fixture(scope="module")
def traced(builder: BundleBuilder) -> Traced:
    """The encode graph in both precisions, and what is to become of it."""
    found: Traced = {}
    for precision in ("fp32", "fp16"):
        folder, specs = builder.sources.onnx.graphs(precision, "batch", split=False)
        changes = {"file": "encode.engine", "layers": "encode.layers.json", "batch_limits": LIMITS}
        found[precision] = folder / "encode.onnx", specs["encode"].model_copy(update=changes)
    return found


def build(
    traced: Traced,
    folder: Path,
    given: PrecisionName,
    asked: PrecisionName | None = None,
    recipe: EngineRecipe = RECIPE,
) -> LayerTable:
    source, spec = traced[given]
    wanted = asked or given
    precision = traced_precision(wanted) if wanted in FORMS else Precision(name=wanted)
    EngineBuilder(API, recipe, precision, gpu=None).build(source, folder, spec, node_layers(source))
    return LayerTable.model_validate_json((folder / "encode.layers.json").read_bytes())


@pytest.mark.parametrize(
    ("precision", "counts"),
    [("fp32", {"FLOAT": PRODUCTS}), ("fp16", {"HALF": PRODUCTS - 1, "FLOAT": 1})],
)
def test_products_have_the_precision_that_was_asked_for(
    traced: Traced, tmp_path: Path, precision: PrecisionName, counts: dict[str, int], capfd: pytest.CaptureFixture[str]
) -> None:
    table = build(traced, tmp_path, precision)
    assert product_counts(table.network) == counts
    assert (tmp_path / "encode.engine").stat().st_size > 50_000
    kept = [layer for layer in table.network if layer.product_type == "FLOAT" and precision == "fp16"]
    assert [layer.origins for layer in kept] == [("quantizer.scores",)] * len(kept)
    assert capfd.readouterr() == ("", ""), "what it reports is collected, not printed"


def test_the_layers_name_the_model_s_own(traced: Traced, tmp_path: Path) -> None:
    build(traced, tmp_path, "fp32")
    origins = read_origins(tmp_path / "encode.layers.json", (tmp_path / "encode.layers.json").read_bytes())
    assert {"encoder.patch_embedding", "encoder.blocks.1.up", "quantizer.scores"} <= set(origins.values())
    assert origins.items() <= node_layers(traced["fp32"][0]).items()
    with pytest.raises(
        BundleError, match=r"encode\.engine: got something else; expected a table of an engine's layers"
    ):
        read_origins(tmp_path / "encode.engine", (tmp_path / "encode.engine").read_bytes())


@pytest.mark.parametrize(
    ("given", "asked", "message"),
    [
        (
            "fp32",
            "fp16",
            rf"got {PRODUCTS} of {PRODUCTS} matrix products in FLOAT; expected HALF, as fp16 asks, but for",
        ),
        (
            "fp16",
            "fp32",
            rf"got {PRODUCTS - 1} of {PRODUCTS} matrix products in HALF, 1 of .*; expected FLOAT, as fp32",
        ),
    ],
)
def test_a_precision_that_became_another_is_refused(
    traced: Traced, tmp_path: Path, given: PrecisionName, asked: PrecisionName, message: str
) -> None:
    where = r"^encode\.onnx, layer node_\w+ of encoder\.patch_embedding: "
    with pytest.raises(RuntimeUnavailable, match=where + message):
        build(traced, tmp_path, given, asked)
    assert list(tmp_path.iterdir()) == []


def test_what_the_framework_is_told(traced: Traced) -> None:
    source, spec = traced["fp32"]
    trt, builder = tensorrt_rtx, tensorrt_rtx.Builder(API.log.native)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, API.log.native)
    assert parser.parse_from_file(str(source))
    config = EngineBuilder(API, RECIPE, traced_precision("fp32"), gpu=None)._config(builder, network, spec.batch_limits)
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 256 * 2**20
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    assert config.num_optimization_profiles == 1
    assert config.num_compute_capabilities == 4
    assert config.get_compute_capability(3) == trt.ComputeCapability.SM120


def test_weights_beside_the_graph(traced: Traced, tmp_path: Path) -> None:
    source, spec = traced["fp32"]
    beside = tmp_path / "encode.onnx"
    onnx.save(onnx.load(source), beside, save_as_external_data=True, location="weights", size_threshold=0)
    EngineBuilder(API, RECIPE, traced_precision("fp32"), gpu=None).build(beside, tmp_path, spec, {})
    assert (tmp_path / "encode.engine").stat().st_size > (tmp_path / "weights").stat().st_size > 50_000


@pytest.mark.parametrize(("name", "counts"), [("quantizer", {"FLOAT": 1}), ("codebook", {})])
def test_parts_of_a_split_target(tmp_path: Path, name: str, counts: dict[str, int]) -> None:
    """The scores are kept in FP32 where they are a graph of their own too."""
    (plan,) = (plan for plan in graph_plans(tiny_model(), split=True) if plan.name == name)
    spec = graph_from_plan(plan, tmp_path, FORMS["fp16"])
    changes = {"file": f"{name}.engine", "layers": f"{name}.layers.json", "batch_limits": LIMITS}
    source = tmp_path / spec.file
    builder = EngineBuilder(API, RECIPE, traced_precision("fp16"), gpu=None)
    builder.build(source, tmp_path, spec.model_copy(update=changes), node_layers(source))
    table = LayerTable.model_validate_json((tmp_path / f"{name}.layers.json").read_bytes())
    assert product_counts(table.network) == counts


def save_graph(path: Path, operator: str, domain: str = "") -> GraphSpec:
    node = helper.make_node(operator, ["x"], ["y"], name="node_odd", domain=domain)
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [3, 3]), ("y", []))
    ]
    graph = helper.make_graph([node], "graph", tensors[:1], tensors[1:])
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("acme", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    x, y = TensorSpec(name="x", dtype="float32", shape=(3, 3)), TensorSpec(name="y", dtype="float32", shape=())
    return GraphSpec(file="graph.engine", inputs=(x,), outputs=(y,))


@pytest.mark.parametrize(("operator", "domain"), [("Det", ""), ("Frobnicate", "acme")])
def test_an_operator_that_it_lacks_is_named_with_its_layer(tmp_path: Path, operator: str, domain: str) -> None:
    spec = save_graph(tmp_path / "encode.onnx", operator, domain)
    message = (
        rf"^encode\.onnx, node node_odd of the layer encoder\.blocks\.0: got the operator {operator} \(.*\); "
        r"expected one that TensorRT-RTX has; export to another format$"
    )
    builder = EngineBuilder(API, RECIPE, traced_precision("fp32"), gpu=None)
    with pytest.raises(RuntimeUnavailable, match=message):
        builder.build(tmp_path / "encode.onnx", tmp_path, spec, {"node_odd": "encoder.blocks.0"})


def test_a_build_that_fails_names_the_node_and_its_layer(traced: Traced, tmp_path: Path) -> None:
    """Turing has no FP32 matrix products in TensorRT-RTX."""
    message = (
        r"^encode\.onnx, node node_\w+ of the layer encoder\.patch_embedding: got TensorRT-RTX fails to build it \("
    )
    with pytest.raises(RuntimeUnavailable, match=message):
        build(traced, tmp_path, "fp32", recipe=RECIPE.model_copy(update={"compute_capabilities": ("7.5",)}))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_compute_capability() -> None:
    recipe = EngineRecipe(workspace_mb=1, compute_capabilities=("8.0", "9.0"))
    message = r"^compute capability for TensorRT-RTX: got '9\.0'; expected one of 7\.5, 8\.0, 8\.6, 8\.9, 12\.0, 12\.1"
    with pytest.raises(UsageError, match=message):
        EngineBuilder(API, recipe, traced_precision("fp32"), gpu=None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no graph", r"encode\.onnx: got TensorRT-RTX 1\..* refuses it \(.*Failed to parse.*\); expected a graph"),
        (b"", r"encode\.onnx inputs: got none; expected images uint8 \(batch, 32, 32, 3\), as the manifest says"),
        (None, r"encode\.onnx: got TensorRT-RTX 1\..* refuses it \(.*cannot be found.*\)"),
    ],
)
def test_a_source_that_is_no_graph(traced: Traced, tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "encode.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=message):
        EngineBuilder(API, RECIPE, traced_precision("fp32"), gpu=None).build(
            tmp_path / "encode.onnx", tmp_path, traced["fp32"][1], {}
        )


def test_another_graph_than_the_manifest_s(traced: Traced, tmp_path: Path) -> None:
    source, spec = traced["fp32"]
    narrow = spec.model_copy(update={"outputs": spec.outputs[:1]})
    with pytest.raises(BundleError, match=r"encode\.onnx outputs: got indices .*, features .*; expected indices "):
        EngineBuilder(API, RECIPE, traced_precision("fp32"), gpu=None).build(source, tmp_path, narrow, {})


def test_the_manifest_says_what_a_portable_engine_is_tied_to() -> None:
    runtime = EngineBuilder(API, RECIPE, traced_precision("fp32"), gpu=None).runtime({"onnx": "1.23"})
    assert runtime.engine is not None
    assert runtime.built_with == {"onnx": "1.23", "tensorrt-rtx": tensorrt_rtx.__version__}
    assert runtime.options == {"compute_capabilities": "8.0,8.6,8.9,12.0", "workspace_mb": 256}
    assert runtime.hardware == "compute capability 8.0, 8.6, 8.9, 12.0"
    assert (runtime.engine.platform, runtime.engine.any_newer_version) == ("any", False)
    assert (runtime.engine.compute_capabilities, runtime.engine.newer_hardware) == (RECIPE.compute_capabilities, False)
    assert EngineRecipe.from_manifest("bundle", runtime) == RECIPE


@pytest.mark.parametrize(
    ("options", "capabilities", "newer"),
    [
        ({}, ("8.9",), False),
        ({"hardware_compatible": "ampere-plus"}, ("8.0",), True),
        ({"hardware_compatible": "same-compute-capability", "version_compatible": True}, ("8.9",), False),
    ],
)
def test_the_manifest_says_what_a_local_engine_is_tied_to(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], capabilities: tuple[str, ...], newer: bool
) -> None:
    monkeypatch.setattr(cuda, "cudart", FakeCudart("8.9"))
    recipe = EngineRecipe(workspace_mb=64, **options)
    runtime = EngineBuilder(PLAIN, recipe, traced_precision("fp32"), gpu=building_gpu(PLAIN)).runtime({})
    assert runtime.engine is not None
    assert runtime.options == {"workspace_mb": 64, **options}
    assert runtime.hardware == f"Fake 0, {this_platform()}"
    assert runtime.engine.platform == this_platform()
    assert runtime.engine.any_newer_version == recipe.version_compatible
    assert (runtime.engine.compute_capabilities, runtime.engine.newer_hardware) == (capabilities, newer)
    assert EngineRecipe.from_manifest("bundle", runtime) == recipe


@pytest.mark.skipif(bool(cuda.all_gpus()), reason="there is an NVIDIA GPU")
def test_tensorrt_builds_on_a_gpu_only() -> None:
    message = (
        r"^tensorrt on cuda: got no NVIDIA driver; expected an NVIDIA GPU and its driver; run it on a machine that"
    )
    with pytest.raises(RuntimeUnavailable, match=message):
        building_gpu(PLAIN)


def test_the_gpu_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "cudart", FakeCudart("8.9", "8.6"))
    for api in (PLAIN, API):
        for device, number in ((None, 0), ("cuda", 0), ("cuda:1", 1)):
            gpu = building_gpu(api, device)
            assert gpu is not None
            assert gpu.number == number
    runtime = EngineBuilder(PLAIN, RECIPE, traced_precision("fp32"), gpu=building_gpu(PLAIN, "cuda:1")).runtime({})
    assert runtime.engine is not None
    assert runtime.engine.compute_capabilities == ("8.6",)


@pytest.mark.parametrize("compatible", [True, False])
def test_a_plan_that_brings_code_is_inspected_all_the_same(monkeypatch: pytest.MonkeyPatch, compatible: bool) -> None:
    """TensorRT gives nothing back for such a plan, unless it may run the code."""
    monkeypatch.setattr(cuda, "cudart", FakeCudart("8.9"))
    allowed = []

    class FakeRuntime:
        engine_host_code_allowed = False

        def __init__(self, logger: object) -> None: ...

        def deserialize_cuda_engine(self, plan: bytes) -> None:
            allowed.append(self.engine_host_code_allowed)

    trt = SimpleNamespace(ILogger=tensorrt_rtx.ILogger, Runtime=FakeRuntime)
    api = EngineApi(name="tensorrt", title="TensorRT", trt=trt, portable=False)
    recipe = EngineRecipe(version_compatible=compatible)
    builder = EngineBuilder(api, recipe, traced_precision("fp32"), gpu=building_gpu(api))
    with pytest.raises(RuntimeUnavailable, match="TensorRT fails to build it"):
        builder._inspected(Path("encode.onnx"), b"plan", {})
    assert allowed == [compatible]


def test_a_manifest_without_a_recipe() -> None:
    runtime = RuntimeInfo(name="tensorrt-rtx", built_with={}, options={"workspace_mb": "much"})
    with pytest.raises(
        BundleError, match=r"^bundle options: got Input should be a valid integer.*; expected the options"
    ):
        EngineRecipe.from_manifest("bundle", runtime)


class FakeConfig:
    """Stands in for TensorRT's, of which TensorRT-RTX leaves out what these tests look at."""

    def __init__(self, accepts: bool = True) -> None:
        self.flags: set[Any] = set()
        self.cleared: set[Any] = set()
        self.accepts = accepts
        self.timings = b""

    def clear_flag(self, flag: Any) -> None:
        self.cleared.add(flag)

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.workspace = size

    def create_timing_cache(self, measured: bytes) -> bytes:
        return measured

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        self.timings = cache + b" more"
        return self.accepts and not ignore_mismatch

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.timings)


def test_what_only_tensorrt_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda, "cudart", FakeCudart("8.9"))
    recipe = EngineRecipe(workspace_mb=64, version_compatible=True, hardware_compatible="ampere-plus")
    timings = TimingCache(tmp_path / "timings")
    stand_in: Any = SimpleNamespace(create_builder_config=FakeConfig)
    builder = EngineBuilder(PLAIN, recipe, traced_precision("fp32"), gpu=building_gpu(PLAIN), timings=timings)
    config = builder._config(stand_in, None, None)
    assert config.flags == {tensorrt_rtx.BuilderFlag.VERSION_COMPATIBLE}
    assert config.cleared == {tensorrt_rtx.BuilderFlag.TF32}
    assert config.hardware_compatibility_level == tensorrt_rtx.HardwareCompatibilityLevel.AMPERE_PLUS
    assert config.timings == b" more"


def test_timings_are_kept_and_read_again(tmp_path: Path) -> None:
    timings = TimingCache(tmp_path / "timings")
    for content in (b" more", b" more more"):
        config = FakeConfig()
        timings.use(config)
        timings.keep(config)
        assert (tmp_path / "timings").read_bytes() == content
    with pytest.raises(
        RuntimeUnavailable, match=r"timings: got measurements of another GPU or version; delete the file"
    ):
        timings.use(FakeConfig(accepts=False))
    assert (tmp_path / "timings").read_bytes() == b" more more"


def inspected(*layers: tuple[str, list[str], str]) -> tuple[EngineLayer, ...]:
    """Layers as an inspector describes them: kind, the inputs' types, and the node."""
    described = [
        {
            "Name": f"{node}_myl0_1",
            "LayerType": kind,
            "Inputs": [{"Name": "in", "Format/Datatype": text} for text in types],
            "Outputs": [{"Name": "out", "Format/Datatype": types[-1]}],
            "Metadata": f"[ONNX Layer: {node}]\x1f[ONNX Layer: node_after]",
        }
        for kind, types, node in layers
    ]
    text = json.dumps({"Layers": [*described, "a layer without details"]}).replace("\\u001f", "\x1f")
    inspector = SimpleNamespace(get_engine_information=lambda form: text)
    engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
    return inspected_layers(tensorrt_rtx, engine, {"node_scores": "quantizer.scores", "node_up": "encoder.blocks.0.up"})


def test_what_an_inspector_says_is_checked_too() -> None:
    precision = traced_precision("fp16")
    fused = ("gemm", ["Half", "Row major linear FP32"], "node_up")  # the residual stream is added in FP32
    scores = ("gemm", ["Row major linear FP32"], "node_scores")
    norm = ("kgen", ["Float"], "node_norm")
    layers = inspected(fused, scores, norm)
    check_products("the engine", precision, layers)
    assert product_counts(layers) == {"HALF": 1, "FLOAT": 1}
    assert layers[0].nodes == ("node_up", "node_after")
    with pytest.raises(RuntimeUnavailable, match=r"of encoder\.blocks\.0\.up: got 2 of 2 matrix products in FLOAT;"):
        check_products("the engine", precision, inspected(("gemm", ["Float"], "node_up"), scores))
    with pytest.raises(RuntimeUnavailable, match=r"of quantizer\.scores: got 2 of 2 matrix products in HALF;"):
        check_products("the engine", precision, inspected(fused, ("gemm", ["Half"], "node_scores")))


@pytest.mark.parametrize("given", ["fp32", "fp16"])
def test_a_graph_without_int8_is_no_int8(traced: Traced, tmp_path: Path, given: PrecisionName) -> None:
    message = r"^encode\.onnx, layer node_\w+ of .*: got .*; expected INT8, as int8 asks; export it again"
    with pytest.raises(RuntimeUnavailable, match=message):
        build(traced, tmp_path, given, "int8")
    assert list(tmp_path.iterdir()) == []


def test_int8_of_an_inspector() -> None:
    layers = inspected(("gemm", ["Int8", "Row major linear FP32"], "node_up"), ("gemm", ["Float"], "node_scores"))
    assert product_counts(layers) == {"INT8": 1, "FLOAT": 1}
