from __future__ import annotations

from pathlib import Path

import pytest

from vqrae.benchmarks.candidates.candidate import GRAPHS, BundleCandidate
from vqrae.benchmarks.candidates.naive import NaiveCandidate
from vqrae.benchmarks.candidates.pytorch import PyTorchCandidate
from vqrae.benchmarks.measure.footprint import measure_footprint
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.load_options import LoadOptions


@pytest.mark.slow
def test_a_bundle_starts_in_less_memory_than_its_checkpoint(checkpoint, bundle):
    with PyTorchCandidate(checkpoint, threads=1) as candidate:
        pytorch = measure_footprint(candidate.launch("encode"), "encode", threads=1, starts=1)
    with BundleCandidate(bundle, LoadOptions(threads=1)) as candidate:
        onnx = measure_footprint(candidate.launch("encode"), "encode", threads=1, starts=2)
    for footprint in (pytorch, onnx):
        assert min(footprint.import_ms, footprint.load_ms, footprint.first_token_ms) > 0
    assert 20 < onnx.peak_rss_mb < pytorch.peak_rss_mb / 2  # torch would not fit in half of itself


@pytest.mark.slow
def test_the_naive_export_starts_too(checkpoint):
    with NaiveCandidate(checkpoint, threads=1) as candidate:
        for graph in GRAPHS:
            footprint = measure_footprint(candidate.launch(graph), graph, threads=1, starts=1)
            assert min(footprint.import_ms, footprint.load_ms, footprint.first_token_ms) > 0


def test_random_weights_are_saved_for_a_fresh_process():
    with PyTorchCandidate("tiny", threads=1, size=(32, 64)) as candidate:
        folder, *options = candidate.launch("encode")
        assert options == ["--torch", "--size", "32", "64"]
        assert candidate.launch("encode")[0] == folder, "saved once"
        with PyTorchCandidate(folder, threads=1, size=(32, 64)) as again:
            indices = [one.call("encode", 1)()[0] for one in (candidate, again)]
        assert (indices[0] == indices[1]).all()
    assert not Path(folder).exists()


def test_a_failure_brings_its_last_words(tmp_path):
    with pytest.raises(RuntimeUnavailable, match=f"{tmp_path} in a fresh process: got .*manifest.json"):
        measure_footprint((str(tmp_path),), "encode", threads=1, starts=1)
