from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from vqrae.benchmarks.studies import search
from vqrae.benchmarks.studies.runner import Log
from vqrae.runtimes.errors import DeviceMissing, run_as_program


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_one_line_and_exit_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["search", "gpu"])
    with pytest.raises(SystemExit) as left:
        run_as_program(search.main)
    assert left.value.code == DeviceMissing.exit_code == 4
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("vqrae: CUDA: got none for torch ")
    assert printed.err.count("\n") == 1


def test_the_rows_become_a_table() -> None:
    row = search.SearchRow(
        search="fused",
        p50_ms=12.34,
        p90_ms=13,
        speedup=1.5,
        speedup_low=1.4,
        speedup_high=1.6,
        peak_mb=101.2,
        differing=1234,
        largest_gap=1.23e-7,
    )
    table = search.gpu_table([row])
    assert table.splitlines()[-1] == "| fused | 12.3 | 13.0 | 1.50× | 1.40 to 1.60 | 101 | 1,234 | 1.2e-07 |"
    assert len({line.count("|") for line in table.splitlines()}) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_forms_agree_on_the_gpu() -> None:
    device = search.gpu()
    rows = search.search_rows(
        device, torch.randn(512, 64, device=device), torch.randn(300, 64, device=device), rounds=6
    )
    assert [row.search for row in rows] == ["matrix", "chunked", "fused"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read as Linux has it")
def test_the_chunked_search_takes_less_memory_than_its_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh process each: a peak never falls."""
    # A process that is spawned imports its parent's program, which is pytest here.
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    rows = search.memory_rows([16], Log(tmp_path), width=16)
    assert [row[1] for row in rows] == ["chunked", "matrix"]
    chunked, matrix = (float(row[2]) for row in rows)
    assert 60 < chunked < 90, "64 MiB of scores and little else"
    assert matrix > 260, "16 × 256 × 16384 floats are 268 MB"
