from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_each_way_to_int8_is_measured(
    checkpoint: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf", reason="nncf is not installed")
    from vqrae.benchmarks.studies import nncf_comparison

    first, *_, last = nncf_comparison.VARIANTS
    monkeypatch.setattr(nncf_comparison, "VARIANTS", (first, last))
    page = tmp_path / "nncf.md"
    arguments = [
        "--calibration",
        str(calibration),
        "--calibration-images",
        "4",
        "--images",
        "2",
        "-o",
        str(page),
    ]
    monkeypatch.setattr(sys, "argv", ["nncf_comparison", str(checkpoint), *arguments])
    nncf_comparison.main()
    header, _, *rows = (line.split("|")[1:-1] for line in page.read_text().splitlines() if line.startswith("|"))
    assert [name.strip() for name, *_ in rows] == [first.name, last.name, "ours, queries × keys in float", "ours"]
    assert all(len(row) == len(header) for row in rows)
    assert float(rows[2][2].strip("% ")) > 50, "tokens"
