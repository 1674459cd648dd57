"""The page on scores in float and scores that are ranked again, on both runtimes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vqrae.benchmarks.studies import ranked_scores


@pytest.mark.slow
def test_both_kinds_are_measured_on_both_runtimes(
    checkpoint: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "scores.md"
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
    monkeypatch.setattr(sys, "argv", ["ranked_scores", str(checkpoint), *arguments])
    ranked_scores.main()
    _, _, *rows = (line.split("|")[1:-1] for line in page.read_text().splitlines() if line.startswith("|"))
    assert [runtime.strip() for runtime, *_ in rows] == ["ONNX Runtime"] * 2 + ["OpenVINO"] * 2
    assert [kind.strip() for _, kind, *_ in rows] == ["float", "INT8, ranked again"] * 2
    assert all(float(tokens.strip("% ")) > 50 for _, _, _, tokens, _ in rows)
