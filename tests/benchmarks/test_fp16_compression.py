from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vqrae.benchmarks.studies import fp16_compression


@pytest.mark.slow
def test_three_ways_of_the_same_tokenizer(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "fp16.md"
    monkeypatch.setattr(sys, "argv", ["fp16_compression", str(checkpoint), "--images", "2", "-o", str(page)])
    fp16_compression.main()
    rows = [line.split("|")[1:-1] for line in page.read_text().splitlines() if line.startswith("| FP")]
    full, ours, compressed = (float(row[1]) for row in rows)
    assert max(ours, compressed) < full
    assert rows[0][2].strip() == "100%"
    assert rows[1][6].strip() == "pass"
