"""One small, real run: PyTorch and ONNX Runtime on the same model."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from vqrae.benchmarks.bench import bench
from vqrae.benchmarks.candidates import candidate as candidates_module
from vqrae.benchmarks.candidates.candidate import BundleCandidate
from vqrae.benchmarks.candidates.pytorch import PyTorchCandidate
from vqrae.benchmarks.options import BenchOptions
from vqrae.benchmarks.rows import BenchResult
from vqrae.checkpoint import open_checkpoint
from vqrae.export.build import BundleBuilder
from vqrae.export.formats import target
from vqrae.export.parity_images import parity_images
from vqrae.export.tokenizers.vqrae import VqraeTokenizer
from vqrae.runtimes.bundle import Bundle, write_manifest
from vqrae.runtimes.errors import BundleError, RuntimeUnavailable, UsageError
from vqrae.runtimes.evidence import Evidence, SourceEvidence
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import BatchLimits, EngineTies, RuntimeInfo, read_manifest
from vqrae.runtimes.session import Execution
from vqrae.runtimes.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def run(checkpoint: Path, bundle: Path) -> tuple[BenchResult, list[tuple[str, int, int]]]:
    told: list[tuple[str, int, int]] = []
    result = bench(
        [bundle],
        checkpoint,
        BenchOptions(batch_sizes=(1, 2), threads=1, rounds=6, warmup=1, starts=0),
        command="vqrae bench",
        progress=lambda *step: told.append(step),
    )
    return result, told


def test_pytorch_is_the_first_row_of_every_group(run):
    rows = [(row.graph, row.batch, row.runtime) for row in run[0].rows]
    both = ("pytorch", "onnxruntime")
    assert rows == [(graph, batch, name) for graph in ("encode", "decode") for batch in (1, 2) for name in both]


def test_rows_say_what_ran_and_how_faithful_it_is(run, bundle, manifest):
    pytorch, onnx = run[0].rows[:2]
    assert (pytorch.gate, pytorch.speedup, pytorch.token_agreement) == ("reference", None, None)
    assert (onnx.executed, onnx.device, onnx.precision, onnx.threads, onnx.rounds) == (True, "cpu", "fp32", 1, 6)
    assert onnx.bundle == manifest.name == "test-siglip-onnx-fp32"
    assert onnx.gate == "pass"
    assert onnx.token_agreement == manifest.evidence.figures.token_agreement
    assert onnx.runtime_version == manifest.evidence.runtime_version
    assert onnx.size_mb == sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file()) / 1e6


def test_figures_fit_together(run):
    for row in run[0].rows:
        assert 0 < row.p10_ms <= row.p50_ms <= row.p90_ms <= row.p99_ms
        assert row.images_per_s == pytest.approx(row.batch / row.p50_ms * 1000)
        assert row.speedup is None or row.speedup_low <= row.speedup <= row.speedup_high
        assert row.import_ms is row.load_ms is row.first_token_ms is row.peak_rss_mb is None  # starts=0


def test_circumstances_are_recorded(run):
    result, told = run
    assert result.command == "vqrae bench"
    assert result.machine.cores >= 1
    assert {"vqrae", "numpy", "torch", "onnxruntime"} <= set(result.versions)
    assert result.contention is None or 0 <= result.contention <= 1
    around = [step for step in told if step[0] == "around inference"]
    assert around[-2:] == [("around inference", 6, 7), ("around inference", 7, 7)]
    assert told[-1] == ("decode: latency at batch 2 on 1 thread", 7, 7), "one graph after the other"
    assert result.clock is not None


def test_what_happens_around_inference_is_timed_apart(run, bundle):
    """On the golden samples, where no photographs are given."""
    handling = run[0].handling
    assert handling.images == len(Bundle.open(bundle).golden().sources)
    assert min(handling.read_ms, handling.resize_ms, handling.write_ms) > 0


def test_weights_are_those_of_the_graph(run, bundle):
    pytorch, onnx = run[0].rows[:2]
    assert onnx.weights_mb == sum(file.stat().st_size for file in bundle.glob("encode.onnx*")) / 1e6
    assert 0 < pytorch.weights_mb < pytorch.size_mb, "without the decoder"


def test_result_survives_json(run):
    assert BenchResult.from_json(run[0].to_json()) == run[0]


def test_both_candidates_compute_the_same_tokens(checkpoint, bundle):
    with PyTorchCandidate(checkpoint, threads=1) as pytorch, BundleCandidate(bundle, LoadOptions(threads=1)) as onnx:
        indices, _ = pytorch.call("encode", 2)()
        assert (onnx.call("encode", 2)()["indices"] == indices).mean() > 0.99


def test_a_bundle_whose_runtime_is_missing_gets_rows_that_say_so(checkpoint, bundle, monkeypatch):
    def missing(*args: object, **options: object) -> Tokenizer:
        raise RuntimeUnavailable("onnxruntime is not installed", remedy="install it")

    monkeypatch.setattr(candidates_module.Tokenizer, "open", missing)
    result = bench([bundle], checkpoint, BenchOptions(graphs=("encode",), threads=1, rounds=6, warmup=0, starts=0))
    assert [row.executed for row in result.rows] == [True, False]
    assert result.rows[1].reason == "onnxruntime is not installed: install it"
    assert result.rows[1].p50_ms is None
    with pytest.raises(RuntimeUnavailable, match="onnxruntime is not installed"):
        bench([bundle], options=BenchOptions(rounds=6))


def with_graphs(bundle: Path, copy: Path, **changes: object) -> Path:
    """A copy of a bundle whose manifest says otherwise."""
    shutil.copytree(bundle, copy)
    write_manifest(copy, read_manifest(copy / "manifest.json").model_copy(update=changes))
    return copy


def test_an_engine_that_was_not_executed_says_what_is_known_of_it(bundle, manifest, tmp_path):
    """A manifest as TensorRT-RTX's bundles have it, on a machine without a GPU."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    from vqrae.runtimes.backends.tensorrt.cuda import all_gpus

    if all_gpus():
        pytest.skip("there is a GPU, on which the file would have to be an engine")
    engine = EngineTies(
        version=metadata.version("tensorrt-rtx"),
        any_newer_version=False,
        platform="any",
        compute_capabilities=("8.9",),
        newer_hardware=False,
    )
    source = SourceEvidence(
        runtime="onnxruntime", runtime_version="1.32.0", gate="pass", figures=manifest.evidence.figures
    )
    copy = with_graphs(
        bundle,
        tmp_path / "engine",
        runtime=RuntimeInfo(name="tensorrt-rtx", built_with={}, engine=engine),
        evidence=Evidence(executed=False, reason="no GPU", gate="not-executed", source=source),
    )
    result = bench([bundle, copy], options=BenchOptions(graphs=("encode",), threads=1, rounds=6, warmup=0, starts=0))
    onnx, absent = result.rows
    assert (onnx.executed, absent.executed, absent.gate, absent.p50_ms) == (True, False, "not-executed", None)
    assert absent.reason == (
        f"compiled by TensorRT-RTX {engine.version}, not executed (no NVIDIA driver); "
        "its ONNX graphs on ONNX Runtime 1.32.0: pass"
    )


def test_what_an_evaluator_runs_is_not_timed(bundle, monkeypatch):
    evaluated = replace(Execution(runtime="x", runtime_version="1", device="y", precision="z"), means="evaluator")
    monkeypatch.setattr(BundleCandidate, "execution", lambda self, graph: evaluated)
    with pytest.raises(RuntimeUnavailable, match="evaluated operation by operation on this machine, not timed"):
        bench([bundle], options=BenchOptions(graphs=("encode",), threads=1, rounds=6, warmup=0, starts=0))


def test_a_batch_beyond_what_a_graph_takes_is_left_out(bundle, manifest, tmp_path):
    limits = BatchLimits(least=1, most=4, only=(1, 4))
    graphs = {name: graph.model_copy(update={"batch_limits": limits}) for name, graph in manifest.graphs.items()}
    with BundleCandidate(with_graphs(bundle, tmp_path / "limited", graphs=graphs), LoadOptions(threads=1)) as candidate:
        assert [candidate.supports("encode", batch) for batch in (1, 2, 4, 8)] == [True, False, True, False]


def test_bundles_of_several_sizes_are_not_compared(bundle, tmp_path):
    opened = VqraeTokenizer(open_checkpoint(str(bundle.parent / "model"), (64, 32)))
    with BundleBuilder(opened, parity_images(None, (64, 32), 1), lambda step: None) as builder:
        tall = builder.build(target("onnx"), tmp_path).bundle
    with pytest.raises(
        UsageError, match=r"bundles: got the image sizes \[\(32, 32\), \(64, 32\)\]; expected bundles of"
    ):
        bench([bundle, tall], bundle.parent / "model", BenchOptions(rounds=6))
    rows = bench([tall], bundle.parent / "model", BenchOptions(graphs=("decode",), threads=1, rounds=6, starts=0)).rows
    assert [row.runtime for row in rows] == ["pytorch", "onnxruntime"]


def test_without_pytorch_the_first_bundle_is_compared_with(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    result = bench([bundle, copy], options=BenchOptions(graphs=("decode",), threads=1, rounds=6, warmup=0, starts=0))
    assert [row.speedup is None for row in result.rows] == [True, False]


def test_several_numbers_of_threads_make_groups_of_their_own(bundle):
    options = {"graphs": ("decode",), "rounds": 6, "warmup": 0, "starts": 0}
    result = bench([bundle], options=BenchOptions(threads=(1, 2, 1), **options))
    assert [row.threads for row in result.rows] == [1, 2]
    assert [title for title, _ in result.groups()] == ["decode · batch 1 · 1 thread", "decode · batch 1 · 2 threads"]
    assert [title for title, _ in result.footprint_groups()] == ["decode · 1 thread", "decode · 2 threads"]
    assert all(row.speedup is None for row in result.rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads: got 0; expected at least 1"),
        ({"batch_sizes": (1, 0)}, "batch size: got 0; expected at least 1"),
        ({"starts": -1}, "starts: got -1; expected at least 0"),
        ({"rounds": 2}, "rounds: got 2; expected at least 6"),
    ],
)
def test_senseless_numbers_are_refused(bundle, options, message):
    with pytest.raises(UsageError, match=message):
        bench([bundle], options=BenchOptions(**{"starts": 0, **options}))


def test_nothing_to_measure_is_refused(tmp_path):
    with pytest.raises(UsageError, match="got nothing to measure; expected a checkpoint or a bundle"):
        bench([])
    with pytest.raises(BundleError, match="no such folder"):
        bench([tmp_path / "none"])
