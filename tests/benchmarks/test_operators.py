"""Where a graph's time goes: the runtime's own profile, summed by type, and the page that is made of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vqrae.benchmarks.candidates.candidate import sample_input
from vqrae.benchmarks.candidates.naive import NaiveCandidate
from vqrae.benchmarks.studies.operators import (
    GraphTimes,
    OperatorProfile,
    OperatorTime,
    graph_times,
    operator_times,
    section,
    warning,
)
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import BundleError, UsageError

pytestmark = pytest.mark.slow


def kernel(operator: str, start: int, microseconds: int) -> dict[str, object]:
    return {
        "cat": "Node",
        "name": f"{operator}_1_kernel_time",
        "ts": start,
        "dur": microseconds,
        "args": {"op_name": operator},
    }


def test_kernels_are_summed_within_each_call() -> None:
    """Three calls; what lies between them, and fences, are left out."""
    events = [
        event
        for start, factor in ((0, 1), (1000, 2), (2000, 30))
        for event in (kernel("MatMul", start, 10 * factor), kernel("MatMul", start + 5, 5), kernel("Add", start, 1))
    ]
    events += [kernel("Add", 900, 10_000), {**kernel("Add", 1, 10_000), "name": "add_fence_before"}]
    assert operator_times(events, [(0, 500), (1000, 1500), (2000, 2500)]) == [
        OperatorTime(operator="MatMul", calls=2, ms=0.025),
        OperatorTime(operator="Add", calls=1, ms=0.001),
    ]


def test_a_real_profile_counts_the_calls(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    size = (manifest.preprocessing.height, manifest.preprocessing.width)
    values = sample_input("encode", 1, size, grid=manifest.tokens.grid, codebook_size=manifest.tokens.codebook_size)
    with OperatorProfile(bundle / "encode.onnx", threads=1) as profile:
        for _ in range(3):
            profile.run(values)
        found = {time.operator: time for time in profile.found(calls=2)}
    assert found["Softmax"].calls == 2, "one for each block"
    assert all(time.ms > 0 for time in found.values())


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"x\.onnx: got ONNX Runtime .* refuses it"):
        OperatorProfile(tmp_path / "x.onnx", threads=1)


def test_both_graphs_are_profiled_in_turns(checkpoint: Path, bundle: Path) -> None:
    with NaiveCandidate(checkpoint, threads=1, size=(32, 32)) as naive:
        times = graph_times("decode", naive, Bundle.open(bundle), threads=1, rounds=6)
    assert {"MatMul", "Softmax"} <= {time.operator for time in times.folded}
    assert min(times.naive_ms, times.folded_ms, times.least_ms or 0) > 0


def test_another_bundle_is_refused(checkpoint: Path, bundle: Path) -> None:
    opened = Bundle.open(bundle)
    precision = opened.manifest.precision.model_copy(update={"name": "fp16"})
    other = replace(opened, manifest=opened.manifest.model_copy(update={"precision": precision}))
    with (
        NaiveCandidate(checkpoint, threads=1) as naive,
        pytest.raises(UsageError, match="got onnxruntime at fp16; expected a bundle for onnxruntime at fp32"),
    ):
        graph_times("encode", naive, other, threads=1, rounds=6)


def test_the_section_says_what_bounds_it() -> None:
    naive = [OperatorTime(operator="Gemm", calls=3, ms=90.0), OperatorTime(operator="ArgMax", calls=1, ms=10.0)]
    folded = [OperatorTime(operator="MatMul", calls=2, ms=76.0), OperatorTime(operator="Cast", calls=1, ms=0.01)]
    times = GraphTimes(
        graph="encode", naive_ms=100, folded_ms=80, naive=tuple(naive), folded=tuple(folded), least_ms=50
    )
    text = section(times)
    assert "- naive: 100 ms, 90% of it in matrix products" in text
    assert "the folding gains 1.25×" in text
    assert "takes 50.0 ms: with all else for nothing the naive export could be beaten 2.00×" in text
    assert "| Gemm | 90.0 | 3 | – | – |" in text
    assert "beaten" not in section(times, claims=False)
    assert "| others | – | – | 0.0100 | 1 |" in text


def test_a_busy_machine_is_told() -> None:
    assert warning(None) == warning(0.05) == ""
    assert warning(0.4).startswith("Other programs used 40% of the processors meanwhile")
