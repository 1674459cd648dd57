"""What the timed bundles make of golden samples, for the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vqrae.benchmarks.report.reconstructions import MOST_PICTURES, REFERENCE, golden_reconstructions
from vqrae.benchmarks.rows import BenchResult
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.tokenizer import load


def timed(result: BenchResult, bundle: Path) -> BenchResult:
    """With this bundle as the only one that ran."""
    row = result.rows[1].model_copy(update={"bundle": Bundle.open(bundle).manifest.name})
    return result.model_copy(update={"rows": (result.rows[0], row)})


def test_each_timed_bundle_stands_beside_pytorch(result: BenchResult, bundle: Path) -> None:
    found = golden_reconstructions([bundle, bundle], timed(result, bundle))
    assert found is not None
    golden = Bundle.open(bundle).golden()
    np.testing.assert_array_equal(found.originals, golden.images[:MOST_PICTURES])
    assert list(found.of) == [REFERENCE, "ONNX Runtime FP32", "ONNX Runtime FP32 (test-siglip-onnx-fp32)"]
    np.testing.assert_array_equal(found.of[REFERENCE], golden.decoded[:MOST_PICTURES])
    with load(bundle) as tokenizer:
        np.testing.assert_array_equal(found.of["ONNX Runtime FP32"], tokenizer.reconstruct(found.originals))


def test_nothing_is_shown_where_nothing_was_timed(result: BenchResult, bundle: Path) -> None:
    assert golden_reconstructions([bundle], result) is None
