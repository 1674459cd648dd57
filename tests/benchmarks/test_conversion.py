from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vqrae.benchmarks.studies import conversion
from vqrae.benchmarks.studies.conversion import conversion_row
from vqrae.runtimes.errors import UsageError, VqraeError


@pytest.mark.slow
def test_a_row_is_measured_in_a_fresh_process(checkpoint: Path) -> None:
    row = conversion_row(str(checkpoint), "onnx", "fp32", images=2)
    assert (row["format"], row["precision"]) == ("onnx", "fp32")
    seconds, peak_gb, graphs_mb = row["seconds"], row["peak_gb"], row["graphs_mb"]
    assert seconds > 1
    assert 0.2 < peak_gb < 4
    assert 0.05 < graphs_mb < 1
    assert row["parity"] == "pass"


@pytest.mark.slow
def test_a_failed_export_ends_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(VqraeError, match=r"vqrae export .*nowhere.*: got vqrae: .*got no such folder or preset"):
        conversion_row(str(tmp_path / "nowhere"), "onnx", "fp32", images=2)


def test_rows_that_are_there_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, work = tmp_path / "conversion.md", tmp_path / "work"
    told: list[str] = []

    def row(checkpoint: str, format_name: str, precision: str, *, images: int) -> dict[str, object]:
        told.append(f"{checkpoint} {format_name} {precision} on {images}")
        names = {"checkpoint": checkpoint, "format": format_name, "precision": precision}
        return {**names, "seconds": 2.0, "peak_gb": 2.0, "graphs_mb": 2.0, "parity": "pass"}

    monkeypatch.setattr(conversion, "conversion_row", row)
    rest = ["-o", str(page), "--images", "3", "--work", str(work)]
    for some in (["base", "--precision", "fp32"], ["tiny"]):
        monkeypatch.setattr(sys, "argv", ["conversion", *some, "--format", "onnx", *rest])
        conversion.main()
    conversion.main()
    assert told == ["base onnx fp32 on 3", "tiny onnx fp32 on 3", "tiny onnx fp16 on 3"]
    text = page.read_text()
    assert text.count("| checkpoint |") == 1
    assert "| base | onnx | fp32 | 2.00 | 2.00 | 2.00 | pass |" in text
    assert "| tiny | onnx | fp16 | 2.00 | 2.00 | 2.00 | pass |" in text
    command = f"conversion tiny --format onnx -o {page} --images 3 --work {work}"
    assert f"`python -m vqrae.benchmarks.studies.{command}`" in text
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--images", "4"])
    with pytest.raises(UsageError, match=r"got the work of other settings; expected that of settings\.json"):
        conversion.main()
