from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from vqrae.benchmarks.report.charts import LogAxis, histogram, latency_bars, power_of_ten
from vqrae.benchmarks.report.html import render_report, speed_summary, write_report
from vqrae.benchmarks.report.reconstructions import Reconstructions
from vqrae.benchmarks.report.verdicts import headline, overall_gate, verdict
from vqrae.runtimes.errors import ImageError, StorageError
from vqrae.runtimes.evidence import Evidence, SourceEvidence
from vqrae.runtimes.manifest import Manifest

VOID = {"meta", "link", "img", "line", "rect", "circle"}


class Balance(HTMLParser):
    """Checks that every element is closed, and collects what could be fetched."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.references.extend(value for name, value in attributes if name in ("src", "href"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture
def pictures() -> Reconstructions:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    return Reconstructions(originals=images, labels=["<b>cat</b>", ""], of={"A": images[::-1], "<b>B": images})


def failed(manifest: Manifest) -> Manifest:
    figures = manifest.evidence.figures.model_copy(update={"excess_distortion": 0.01, "token_agreement": 0.5})
    return manifest.model_copy(
        update={"evidence": manifest.evidence.model_copy(update={"gate": "fail", "figures": figures})}
    )


def unexecuted(manifest: Manifest) -> Manifest:
    return manifest.model_copy(
        update={"evidence": Evidence(executed=False, reason="no such machine", gate="not-executed")}
    )


def compiled(manifest: Manifest) -> Manifest:
    """Not executed, but its source graphs were."""
    figures = manifest.evidence.figures
    source = SourceEvidence(runtime="onnxruntime", runtime_version="9.9", gate="pass", figures=figures)
    evidence = Evidence(executed=False, reason="no GPU", gate="not-executed", source=source)
    return manifest.model_copy(update={"evidence": evidence})


def test_figures_of_source_graphs_are_called_so(result, manifest):
    html = render_report(result, [compiled(manifest)], title="tiny")
    assert "parity: not-executed" in html
    words = "Not executed: no GPU. The figures are of the graphs that it was built from, on ONNX Runtime 9.9: pass"
    assert words in html
    assert "Token agreement" in html


def test_an_evaluator_is_called_so(result, manifest):
    evidence = manifest.evidence.model_copy(update={"means": "evaluator", "device": "evaluator"})
    html = render_report(result, [manifest.model_copy(update={"evidence": evidence})], title="tiny")
    assert ", operation by operation" in html


def test_what_was_judged_but_not_timed_is_not_called_unexecuted(result, manifest):
    judged = result.rows[-1].model_copy(update={"gate": "pass"})
    assert [bar.text for bar in latency_bars(["a", "b"], [judged, result.rows[-1]])] == ["not timed", "not executed"]


def test_report_is_whole_and_fetches_nothing(result, manifest, pictures):
    html = render_report(result, [manifest, failed(manifest), unexecuted(manifest)], title="tiny", pictures=pictures)
    page = Balance(html)
    assert page.open == []
    assert page.references
    assert all(reference.startswith("data:") for reference in page.references)
    assert not re.search(r"url\(|@import|<script|https?://", html)
    assert "default-src 'none'" in html


def test_text_from_outside_is_escaped(result, manifest, pictures):
    html = render_report(result, [manifest], title="<script>alert(1)</script>", pictures=pictures)
    assert "<script" not in html
    assert "<b>cat" not in html
    assert "&lt;b&gt;cat" in html


def test_report_says_what_was_found_where_and_how(result, manifest):
    html = render_report(result, [manifest], title="tiny")
    for text in ("parity: pass", "A processor", result.date, result.command, "numpy 2.4.0", "2 threads", "100%"):
        assert text in html


def test_identical_inputs_give_identical_bytes(result, manifest, pictures):
    pages = {render_report(result, [manifest], title="tiny", pictures=pictures) for _ in range(2)}
    assert len(pages) == 1


@pytest.mark.parametrize(
    ("kinds", "gate", "sentence"),
    [
        ("", "not-executed", "Not proven here."),
        ("p", "pass", "Still the same tokenizer."),
        ("pp", "pass", "Still the same tokenizer, in all 2 bundles."),
        ("f", "fail", "Not the same tokenizer."),
        ("pfu", "fail", "Not the same tokenizer in 1 of 3 bundles."),
        ("u", "not-executed", "Not proven here."),
        ("pu", "not-executed", "Not proven here for 1 of 2 bundles."),
    ],
)
def test_headline(manifest, kinds, gate, sentence):
    kinds_of = {"p": manifest, "f": failed(manifest), "u": unexecuted(manifest)}
    verdicts = [verdict(kinds_of[kind]) for kind in kinds]
    assert (overall_gate(verdicts), headline(verdicts)) == (gate, sentence)


def test_checks_name_what_was_missed(manifest):
    kept = {check.name: check.kept for check in verdict(failed(manifest)).checks}
    assert kept["Excess distortion"] is kept["Token agreement"] is False
    assert kept["Decoder against reference"] is True
    assert kept["Largest feature error"] is None
    assert verdict(unexecuted(manifest)).basis == "Not executed: no such machine"


def test_summary_claims_only_what_was_measured(result):
    assert speed_summary(result, "encode") == (
        "ONNX Runtime FP32 encodes an image in 10.0 ms, 2.00 times as fast as PyTorch."
    )
    assert speed_summary(result, "decode") == ""
    unclear = result.model_copy(update={"rows": (result.rows[0], result.rows[2])})
    assert speed_summary(unclear, "encode").endswith("in 19.9 ms, no different from PyTorch.")
    assert speed_summary(result.model_copy(update={"contention": 0.5}), "encode") == ""


def test_bars_share_an_axis_from_zero(result):
    names = ["a", "b", "c", "d"]
    bars = latency_bars(names, result.rows)
    assert bars[0].median / bars[1].median == pytest.approx(2)
    assert all(0 <= bar.low <= bar.median <= bar.high <= 100 for bar in bars[:2])
    assert [bar.executed for bar in bars] == [True, True, True, False]
    assert bars[1].note == "2.00× (1.95 to 2.05)"
    assert bars[3].note == "other is not installed"


def test_histogram_covers_the_axis(manifest):
    chart = histogram(manifest.evidence.figures)
    assert chart.bins[0].left == pytest.approx(0)
    assert chart.bins[-1].left + chart.bins[-1].width == pytest.approx(100)
    assert max(entry.height for entry in chart.bins) == 100
    assert histogram(manifest.evidence.figures.model_copy(update={"margin_histogram": None})) is None


def test_axis_ticks_are_powers_of_ten_where_there_are_any():
    assert [label for _, label in LogAxis(0.005, 200.0).ticks()] == ["10⁻²", "0.1", "1", "10", "100"]
    assert LogAxis(2.0, 3.0).ticks() == ((0.0, "2.00"), (100.0, "3.00"))
    assert power_of_ten(3) == "10³"


def test_nothing_half_written(result, manifest, tmp_path, pictures):
    write_report(tmp_path / "report.html", result, [manifest], title="tiny", pictures=pictures)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    unpaired = Reconstructions(originals=pictures.originals, of=pictures.of, labels=[])
    with pytest.raises(ImageError, match="labels: got 0; expected 2"):
        write_report(tmp_path / "other.html", result, [manifest], title="tiny", pictures=unpaired)
    with pytest.raises(StorageError, match=r"report\.html"):
        write_report(tmp_path / "report.html" / "report.html", result, [manifest], title="tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
