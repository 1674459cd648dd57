"""Bundles of TensorRT-RTX engines: compiled here for real, and executed only where there is a GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import onnx
import pytest
import tensorrt_rtx

from vqrae.export.batch import DYNAMIC, Batch
from vqrae.export.build import BundleBuilder, check_target
from vqrae.export.formats import target
from vqrae.runtimes.backends.tensorrt import cuda
from vqrae.runtimes.backends.tensorrt.layers import LayerTable, product_counts
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import RuntimeUnavailable, UsageError
from vqrae.runtimes.manifest import BatchLimits
from vqrae.runtimes.selftest import selftest
from vqrae.runtimes.tokenizer import load

WITHOUT_GPU = pytest.mark.skipif(bool(cuda.all_gpus()), reason="there is an NVIDIA GPU")
WITH_GPU = pytest.mark.skipif(not cuda.all_gpus(), reason="needs an NVIDIA GPU and driver")
CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
Built = Callable[..., Bundle]


@pytest.fixture
def built(builder: BundleBuilder, tmp_path: Path) -> Built:
    def build(
        precision: str = "fp32",
        batch: Batch = DYNAMIC,
        options: Mapping[str, str] = MappingProxyType({}),
        split: bool = False,
    ) -> Bundle:
        wanted = target("tensorrt-rtx", precision, batch=batch, options=options, split=split)
        check_target(wanted)
        return Bundle.open(builder.build(wanted, tmp_path).bundle)

    return build


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_bundle_holds_engines_and_what_they_were_built_from(built: Built, precision: str) -> None:
    bundle = built(precision)
    manifest = bundle.manifest
    assert {path.name for path in bundle.path.iterdir()} == {
        *(f"{name}.{ending}" for name in ("encode", "decode") for ending in ("engine", "layers.json", "onnx")),
        "golden",
        "manifest.json",
    }
    encode = manifest.graphs["encode"]
    assert (encode.file, encode.source, encode.layers) == ("encode.engine", "encode.onnx", "encode.layers.json")
    assert encode.batch_limits == BatchLimits(least=1, best=8, most=32)
    assert (encode.extra_files, encode.fixed_batch) == ((), None)
    assert manifest.precision.name == precision
    counts = product_counts(LayerTable.model_validate_json((bundle.path / "encode.layers.json").read_text()).network)
    assert counts == ({"HALF": 13, "FLOAT": 1} if precision == "fp16" else {"FLOAT": 14})
    runtime = manifest.runtime
    assert (runtime.name, runtime.hardware) == ("tensorrt-rtx", f"compute capability {', '.join(CAPABILITIES)}")
    assert runtime.built_with["tensorrt-rtx"] == tensorrt_rtx.__version__
    assert {"torch", "onnx", "onnxscript"} < set(runtime.built_with)
    assert runtime.engine is not None
    assert runtime.engine.compute_capabilities == CAPABILITIES


@WITHOUT_GPU
def test_what_was_not_executed_is_not_said_to_be(built: Built) -> None:
    evidence = built().manifest.evidence
    assert (evidence.executed, evidence.gate, evidence.figures) == (False, "not-executed", None)
    assert evidence.reason is not None
    assert evidence.reason.startswith("tensorrt-rtx on cuda: got no NVIDIA driver;")
    assert evidence.source is not None
    assert (evidence.source.runtime, evidence.source.gate) == ("onnxruntime", "pass")
    assert evidence.source.figures.images == 8


@WITH_GPU
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_is_still_the_same_tokenizer(built: Built, precision: str) -> None:
    """The whole of parity, on a GPU: `build` has judged it, and the golden samples are replayed."""
    bundle = built(precision)
    assert (bundle.manifest.evidence.executed, bundle.manifest.evidence.gate) == (True, "pass")
    report = selftest(bundle.path)
    assert (report.gate, report.device.partition(" ")[0]) == ("pass", "cuda:0")


@WITHOUT_GPU
def test_without_onnx_there_is_nothing_to_execute_either(built: Built) -> None:
    bundle = built(options={"include-onnx": "false"})
    assert not list(bundle.path.glob("*.onnx"))
    assert bundle.manifest.graphs["encode"].source is None
    assert bundle.manifest.evidence.source is None


@pytest.mark.parametrize(
    ("batch", "axis", "limits"),
    [("3", 3, None), ("2:4:6", "batch", BatchLimits(least=2, best=4, most=6))],
)
def test_the_batch_that_was_asked_for(built: Built, batch: str, axis: int | str, limits: BatchLimits | None) -> None:
    decode = built(batch=Batch.parse(batch)).manifest.graphs["decode"]
    assert (decode.inputs[0].shape[0], decode.batch_limits) == (axis, limits)


def test_more_than_the_engine_takes_is_refused(built: Built) -> None:
    bundle = built(batch=Batch.parse("1:2:3"))
    message = r"batch_size: got 4; expected at most 3, which decode was built for; export it with a larger --batch"
    with load(bundle.path) as tokenizer, pytest.raises(UsageError, match=message):
        tokenizer.decode([[[0] * 4] * 4] * 4, batch_size=4)


@WITHOUT_GPU
def test_weights_beside_the_graphs_come_along(
    builder: BundleBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, traced = builder.sources.onnx.graphs("fp32", "batch", split=False)
    (tmp_path / "graphs").mkdir()
    specs = {}
    for name, spec in traced.items():
        beside = f"{spec.file}.data"
        target_file = tmp_path / "graphs" / spec.file
        onnx.save(onnx.load(folder / spec.file), target_file, save_as_external_data=True, location=beside)
        specs[name] = spec.model_copy(update={"extra_files": (beside,)})
    stand_in = SimpleNamespace(graphs=lambda *_, **__: (tmp_path / "graphs", specs))
    monkeypatch.setattr(builder.sources, "onnx", stand_in)
    bundle = Bundle.open(builder.build(target("tensorrt-rtx"), tmp_path).bundle)
    assert bundle.manifest.graphs["encode"].source_extra_files == ("encode.onnx.data",)
    assert bundle.manifest.evidence.source is not None
    assert bundle.manifest.evidence.source.gate == "pass"


def test_the_gpus_that_were_asked_for(built: Built) -> None:
    runtime = built(options={"compute-capabilities": "8.9,12.0", "workspace-mb": "128"}).manifest.runtime
    assert runtime.engine is not None
    assert runtime.engine.compute_capabilities == ("8.9", "12.0")
    assert runtime.options == {"compute_capabilities": "8.9,12.0", "workspace_mb": 128}


@WITHOUT_GPU
def test_what_the_last_step_needs_is_looked_for_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU its ONNX graphs are verified, by ONNX Runtime."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeUnavailable, match=r"^onnxruntime is not installed"):
        check_target(target("tensorrt-rtx"))
    check_target(target("tensorrt-rtx", options={"include-onnx": "false"}))


def test_tensorrt_where_it_is_not_installed() -> None:
    try:
        import tensorrt  # noqa: F401
    except ImportError:
        with pytest.raises(
            RuntimeUnavailable, match=r"^tensorrt is not installed: Install it with .*vqrae\[tensorrt\]"
        ):
            check_target(target("tensorrt", "fp16"))
    else:
        check_target(target("tensorrt", "fp16"))
