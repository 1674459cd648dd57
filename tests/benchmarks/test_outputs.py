from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from vqrae.benchmarks.report.outputs import WRITERS, write_results
from vqrae.benchmarks.rows import BenchResult, result_schema
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.load_options import LoadOptions


def test_the_published_schema_is_the_result_s():
    published = Path(__file__).parents[2] / "docs" / "reference" / "bench.schema.json"
    assert json.loads(published.read_text()) == result_schema()


def test_csv_has_every_field_and_leaves_empty_what_was_not_measured(result, tmp_path):
    write_results([tmp_path / "result.csv"], result, [], LoadOptions())
    with (tmp_path / "result.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(result.rows)
    assert set(lines[0]) == {*result_schema()["$defs"]["BenchRow"]["properties"], "date", "machine", "contention"}
    assert (lines[1]["p50_ms"], lines[1]["speedup"], lines[1]["executed"]) == ("10.0", "2.0", "True")
    assert (lines[3]["p50_ms"], lines[3]["reason"]) == ("", "other is not installed")
    assert {line["machine"] for line in lines} == {str(result.machine)}  # it has commas


def test_each_suffix_has_its_form(result, bundle, tmp_path):
    for suffix in WRITERS:
        write_results([tmp_path / f"result{suffix}"], result, [bundle], LoadOptions())
    assert BenchResult.from_json((tmp_path / "result.json").read_text()) == result
    assert (tmp_path / "result.md").read_text().endswith("2026-01-02T03:04:05+00:00; `vqrae bench tiny-onnx-fp32`.\n")
    assert "parity: pass" in (tmp_path / "result.html").read_text()


def test_another_suffix_is_refused(result, tmp_path):
    with pytest.raises(
        UsageError, match=r"result\.xls: got suffix '\.xls'; expected one of \.json, \.csv, \.md, \.html"
    ):
        write_results([tmp_path / "result.xls"], result, [], LoadOptions())
