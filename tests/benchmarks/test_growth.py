from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vqrae.benchmarks.studies import growth
from vqrae.benchmarks.studies.growth import (
    Point,
    default_sides,
    fixed_and_growing,
    largest_miss,
    power_law,
    write_growth,
)
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.latency import Latency


def point(axis: str, label: str, x: int, ms: float, mb: float) -> Point:
    quantiles = Latency(p10_ms=ms, p50_ms=ms, p90_ms=ms, p99_ms=ms, p50_low_ms=ms, p50_high_ms=ms)
    batch, side = (x, 256) if axis == "batch" else (1, x)
    return Point(axis=axis, label=label, batch=batch, side=side, latency=quantiles, peak_mb=mb)


def test_a_power_law_is_found_again():
    x = [1, 2, 8, 32]
    law = power_law("batch", x, [3 * value**1.5 for value in x])
    assert (law.at(1), law.text) == (pytest.approx(3), "batch^1.50")
    assert law.at(4) == pytest.approx(24)
    assert largest_miss(law, x, [3 * value**1.5 * (1.1 if value == 8 else 1) for value in x]) == pytest.approx(0.1)


def test_a_fixed_part_is_told_from_what_grows():
    x = [256, 320, 512]
    law = fixed_and_growing("side", x, [400 + 0.002 * side**2 for side in x])
    assert (law.at(0), law.at(100)) == pytest.approx((400, 420))
    assert law.text == "400 + 20.0·(side/100)²"
    assert fixed_and_growing("batch", [1, 4], [530, 620]).text == "500 + 30.0·batch"


def test_sizes_are_those_that_patches_tile():
    assert default_sides(256, 16) == (256, 320, 384, 448, 512)
    assert default_sides(224, 14) == (224, 280, 336, 392, 448)
    assert default_sides(32, 8) == (32, 40, 48, 56, 64)
    assert default_sides(16, 16) == (16, 32)


def test_the_page_tells_the_laws_and_the_points(tmp_path):
    slow = [point("batch", "slow", x, 2.0 * x, 90 + 10 * x) for x in (1, 4)]
    slow += [point("side", "slow", x, 2.0 * x, 87.5 + x**2 / 128) for x in (16, 32)]
    fast = [p.model_copy(update={"label": "fast", "latency": replace(p.latency, p50_ms=p.x**2)}) for p in slow]
    page = tmp_path / "growth.md"
    write_growth(page, [*slow, *fast], title="`encode` of x", rounds=6, contention=0.012, module="m")
    text = page.read_text()
    assert "| slow | images per call | 1 to 4 | batch^1.00 | 0.0% | 90.0 + 10.0·batch | 0.0% |" in text
    assert "| fast | image side, pixels | 16 to 32 | side^2.00 | 0.0% | 87.5 + 78.1·(side/100)² | 0.0% |" in text
    assert "| slow | 4 | 256 | 8.00 | 8.00 to 8.00 | 500 | 130 |" in text
    assert "(growth.svg)" in text
    assert "same 6 rounds; other programs used 1.2% of" in text
    drawing = (tmp_path / "growth.svg").read_text()
    assert "slow: batch^1.00" in drawing
    assert "fast: side^2.00" in drawing


def test_one_value_is_no_growth(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["growth", str(checkpoint), "--batch", "2", "-o", str(tmp_path / "page.md")])
    with pytest.raises(UsageError, match="batch sizes: got 2; expected two different ones"):
        growth.main()


@pytest.mark.slow
def test_a_checkpoint_s_growth_is_measured(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, kept = tmp_path / "page.md", tmp_path / "bundles"
    options = ["--format", "onnx", "--batch", "1", "--batch", "2", "--imgsz", "32", "--imgsz", "48", "--rounds", "6"]
    arguments = [str(checkpoint), *options, "--threads", "1", "--bundles", str(kept), "-o", str(page)]
    monkeypatch.setattr(sys, "argv", ["growth", *arguments])
    growth.main()
    rows = [line.split("|")[1:-1] for line in page.read_text().splitlines() if line.startswith("| ONNX Runtime FP32")]
    assert [[cell.strip() for cell in row[1:3]] for row in rows] == [
        ["images per call", "1 to 2"],
        ["image side, pixels", "32 to 48"],
        *(["1", "32"], ["2", "32"], ["1", "32"], ["1", "48"]),
    ]
    assert all(float(row[6]) > 20 for row in rows[2:])
    assert {path.name for path in kept.iterdir()} == {"test-siglip-onnx-fp32", "test-siglip-48x48-onnx-fp32"}
