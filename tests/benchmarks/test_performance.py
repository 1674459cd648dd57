"""The page of performance: what it says follows from the result, and its plots are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from vqrae.benchmarks.measure.limit import Limit
from vqrae.benchmarks.rows import BenchResult
from vqrae.benchmarks.studies.performance import starts, targets, write_performance


@pytest.fixture
def counted(result: BenchResult) -> BenchResult:
    """With the naive export beside it, and the machine's limit."""
    added = {"gmacs": 1.0, "traffic_mb": 4.0, "p10_ms": None, "p90_ms": None}
    pytorch, fast, *others = (row.model_copy(update=added) for row in result.rows)
    naive = fast.model_copy(
        update={"kind": "naive", "speedup": 0.8, "load_ms": 840.0, "p50_ms": 25.0, "p90_ms": 27.0, "gate": "unjudged"}
    )
    fast = fast.model_copy(update={"peak_share": 0.9})
    limit = Limit(
        graph="encode",
        batch=1,
        threads=2,
        fp32_gflops=300.0,
        fp32_by="OpenVINO",
        int8_gops=600.0,
        int8_by="OpenVINO",
        memory_gb_s=30.0,
    )
    return result.model_copy(update={"rows": (pytorch, fast, naive, *others), "limits": (limit,)})


def test_the_fastest_row_is_held_against_the_others(counted: BenchResult) -> None:
    first = targets(counted).splitlines()[0]
    assert "2.00× PyTorch eager, 2.50× the naive export; 90% of the machine's peak" in first
    assert first.endswith("at which it would be 2.78× the naive export.")


def test_a_fresh_process_is_held_against_pytorch_s(counted: BenchResult) -> None:
    first = starts(counted).splitlines()[0]
    assert "ONNX Runtime FP32 has its first result 250 ms after its process was launched" in first
    assert "PyTorch after 2,500 ms, 10.0×, the naive export after 1,050 ms; ONNX Runtime FP32 takes the least" in first
    assert "the least memory, 500 MB, 50.0× its weights, PyTorch" in first
    unmeasured = [row.model_copy(update={"import_ms": None}) for row in counted.rows]
    assert not starts(counted.model_copy(update={"rows": tuple(unmeasured)}))


def test_the_page_has_its_plots_and_the_result(counted: BenchResult, tmp_path: Path) -> None:
    write_performance(tmp_path / "performance.md", counted)
    page = (tmp_path / "performance.md").read_text()
    assert page.startswith(f"# Performance of {counted.rows[0].bundle}\n")
    for plot in ("latency", "frontier"):
        assert f"](performance/{plot}.svg)" in page
        assert (tmp_path / "performance" / f"{plot}.svg").read_text().startswith("<?xml")
    assert BenchResult.from_json((tmp_path / "performance" / "result.json").read_text()) == counted
