from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vqrae.benchmarks.studies import conversion
from vqrae.benchmarks.studies.conversion import conversion_row
from vqrae.runtimes.errors import VqraeError


@pytest.mark.slow
def test_a_row_is_measured_in_a_fresh_process(checkpoint: Path) -> None:
    cells = [cell.strip() for cell in conversion_row(str(checkpoint), "onnx", "fp32", images=2).split("|")[1:-1]]
    assert cells[1:3] == ["onnx", "fp32"]
    seconds, peak_gb, graphs_mb = map(float, cells[3:6])
    assert seconds > 1
    assert 0.2 < peak_gb < 4
    assert 0.05 < graphs_mb < 1
    assert cells[6] == "pass"


@pytest.mark.slow
def test_a_failed_export_ends_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(VqraeError, match=r"vqrae export .*nowhere.*: got vqrae: .*got no such folder or preset"):
        conversion_row(str(tmp_path / "nowhere"), "onnx", "fp32", images=2)


def test_rows_that_are_there_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "conversion.md"
    kept = [
        "| base | coreml | fp32 | 1.00 | 1.00 | 1.00 | pass |\n",
        "| tiny | onnx | fp32 | 1.00 | 1.00 | 1.00 | pass |\n",
        "| tiny | openvino | fp16 | 1.00 | 1.00 | 1.00 | pass |\n",
    ]
    table.write_text(conversion.HEADER + "".join(kept))
    told: list[str] = []

    def row(checkpoint: str, format_name: str, precision: str, *, images: int) -> str:
        told.append(f"{format_name} {precision} on {images}")
        return f"| {checkpoint} | {format_name} | {precision} | 2.00 | 2.00 | 2.00 | pass |\n"

    monkeypatch.setattr(conversion, "conversion_row", row)
    monkeypatch.setattr(sys, "argv", ["conversion", "tiny", "--format", "onnx", "-o", str(table), "--images", "3"])
    conversion.main()
    assert told == ["onnx fp16 on 3"]
    text = table.read_text()
    assert text.count("| checkpoint |") == 1
    assert all(line in text for line in kept)
    assert "| tiny | onnx | fp16 | 2.00" in text
    assert f"`python -m vqrae.benchmarks.studies.conversion tiny --format onnx -o {table} --images 3`" in text
