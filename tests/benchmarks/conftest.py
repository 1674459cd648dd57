"""A small checkpoint and its real bundle, exported once; and a result to draw, with every kind of row in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import tiny_model

from vqrae.benchmarks.rows import BenchResult, BenchRow
from vqrae.checkpoint import open_checkpoint, save_pretrained
from vqrae.export.build import BundleBuilder
from vqrae.export.formats import target
from vqrae.export.parity_images import parity_images
from vqrae.export.tokenizers.vqrae import VqraeTokenizer
from vqrae.images.photographs import TRAIN, crops
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.machine import Machine
from vqrae.runtimes.manifest import Manifest


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark") / "model"
    save_pretrained(tiny_model(), folder)
    return folder


@pytest.fixture(scope="session")
def bundle(checkpoint: Path) -> Path:
    opened = VqraeTokenizer(open_checkpoint(str(checkpoint)))
    with BundleBuilder(opened, parity_images(None, (32, 32), 2), lambda step: None) as builder:
        builder.build(target("onnx"), checkpoint.parent)
    return checkpoint.parent / "test-siglip-onnx-fp32"


@pytest.fixture(scope="session")
def manifest(bundle: Path) -> Manifest:
    return Bundle.open(bundle).manifest


@pytest.fixture(scope="session")
def result() -> BenchResult:
    """PyTorch; a bundle twice as fast; one whose speed is not told from PyTorch's, and failed; one not executed."""
    pytorch = BenchRow(
        kind="reference",
        bundle="tiny",
        runtime="pytorch",
        runtime_version="2.13.0",
        precision="fp32",
        device="cpu",
        executed=True,
        graph="encode",
        batch=1,
        threads=2,
        rounds=30,
        p10_ms=19.5,
        p50_ms=20.0,
        p90_ms=22.0,
        p99_ms=25.0,
        images_per_s=50.0,
        import_ms=2000.0,
        load_ms=400.0,
        first_token_ms=100.0,
        peak_rss_mb=500.0,
        weights_mb=10.0,
        memory_ratio=50.0,
        size_mb=20.0,
        gate="reference",
    )
    fast = pytorch.model_copy(
        update={
            "kind": "bundle",
            "bundle": "tiny-onnx-fp32",
            "runtime": "onnxruntime",
            "p10_ms": 9.9,
            "p50_ms": 10.0,
            "p90_ms": 10.5,
            "p99_ms": 11.0,
            "images_per_s": 100.0,
            "speedup": 2.0,
            "speedup_low": 1.95,
            "speedup_high": 2.05,
            "import_ms": 200.0,
            "load_ms": 40.0,
            "first_token_ms": 10.0,
            "start_speedup": 10.0,
            "token_agreement": 0.99999,
            "excess_distortion": 1.2e-7,
            "decode_psnr_db": 100.0,
            "gate": "pass",
        }
    )
    unclear = fast.model_copy(
        update={
            "bundle": "tiny-onnx-int8",
            "precision": "int8",
            "p50_ms": 19.9,
            "speedup": 1.01,
            "speedup_low": 0.98,
            "speedup_high": 1.04,
            "token_agreement": 0.91,
            "gate": "fail",
        }
    )
    absent = BenchRow(
        bundle="tiny-other-fp16",
        runtime="other",
        runtime_version=None,
        precision="fp16",
        device=None,
        executed=False,
        reason="other is not installed",
        graph="encode",
        batch=1,
        threads=2,
        rounds=0,
        size_mb=10.0,
        gate="not-executed",
    )
    return BenchResult(
        machine=Machine(cpu="A processor", cores=2, memory_gb=8, system="Linux x86_64", python="3.12.0"),
        contention=0.01,
        date="2026-01-02T03:04:05+00:00",
        versions={"vqrae": "0.1.0", "numpy": "2.4.0"},
        command="vqrae bench tiny-onnx-fp32",
        rows=(pytorch, fast, unclear, absent),
    )


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    """Four photographs."""
    folder = tmp_path / "calibration"
    folder.mkdir()
    for number, image in enumerate(crops({"china": TRAIN["china"]}, 4)):
        image.save(folder / f"{number}.png")
    return folder
