from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from vqrae.benchmarks.studies import agreement
from vqrae.benchmarks.studies.agreement import Agreement, benchmark_app
from vqrae.checkpoint import open_checkpoint
from vqrae.export.build import BundleBuilder
from vqrae.export.formats import target
from vqrae.export.parity_images import parity_images
from vqrae.export.tokenizers.vqrae import VqraeTokenizer
from vqrae.runtimes.errors import GateFailure, RuntimeUnavailable, UsageError

pytestmark = pytest.mark.slow

TIMES = {"ours_ms": 1.0, "tool_ms": 1.0, "ratio": 1.0, "ratio_low": 0.9, "ratio_high": 1.1}
FOUND = Agreement(bundle="b", graph="encode", tool="t", contention=None, **TIMES)


@pytest.fixture(scope="module")
def ir_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    opened, folder = VqraeTokenizer(open_checkpoint(str(checkpoint))), tmp_path_factory.mktemp("ir")
    with BundleBuilder(opened, parity_images(None, (32, 32), 2), lambda step: None) as builder:
        return Path(builder.build(target("openvino"), folder).bundle)


def lines_of(bundles: list[Path], page: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> list[list[str]]:
    """The table's cells; whether the two agree is for an idle machine to tell."""
    monkeypatch.setattr(agreement, "TOLERANCE", 1e9)
    arguments = [*map(str, bundles), "--threads", "1", "--seconds", "0.01", *options, "-o", str(page)]
    monkeypatch.setattr(sys, "argv", ["agreement", *arguments])
    agreement.main()
    lines = [line.split("|")[1:-1] for line in page.read_text().splitlines() if line.startswith("| test-siglip")]
    assert all(float(cell) > 0 for line in lines for cell in line[3:6])
    return [[cell.strip() for cell in line] for line in lines]


def test_a_plain_loop_and_our_rounds_fill_the_page(bundle, tmp_path, monkeypatch):
    (line,) = lines_of([bundle], tmp_path / "page.md", monkeypatch, "--graph", "encode")
    assert line[:3] == ["test-siglip-onnx-fp32", "encode", "ONNX Runtime, a plain loop"]


def test_benchmark_app_fills_it_too(ir_bundle, tmp_path, monkeypatch):
    (line,) = lines_of([ir_bundle], tmp_path / "page.md", monkeypatch, "--graph", "decode")
    assert line[:3] == ["test-siglip-openvino-fp32", "decode", "OpenVINO, `benchmark_app`"]


@pytest.mark.parametrize(("ratio", "kept"), [(0.951, True), (1.049, True), (0.94, False), (1.06, False)])
def test_five_percent_either_way_is_the_limit(ratio, kept, tmp_path, monkeypatch, bundle):
    row = {**FOUND.model_dump(), "ratio": ratio}
    monkeypatch.setattr(agreement, "agreement", lambda *_, **__: row)
    arguments = [str(bundle), "--graph", "encode", "-o", str(tmp_path / "page.md")]
    monkeypatch.setattr(sys, "argv", ["agreement", *arguments])
    if kept:
        agreement.main()
    else:
        with pytest.raises(GateFailure, match=f"b encode: got {ratio:.3f} of the median of t; expected 1 ± 0.05"):
            agreement.main()
    assert f"| {ratio:.3f} |" in (tmp_path / "page.md").read_text()


def test_too_few_slices_are_refused(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["agreement", str(bundle), "--slices", "5", "-o", str(tmp_path / "page.md")])
    with pytest.raises(UsageError, match="--slices: got 5; expected at least 6"):
        agreement.main()


def test_a_failure_of_the_tool_ends_with_its_words(tmp_path):
    app = benchmark_app(tmp_path / "none.xml", "indices", np.zeros((1, 5, 5)), properties={}, scratch=tmp_path)
    with pytest.raises(
        RuntimeUnavailable, match=r"benchmark_app on .*none\.xml: got .*Could not open the file.*none\.xml"
    ):
        app(1)
