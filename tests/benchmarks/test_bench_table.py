from __future__ import annotations

import pytest
from rich.console import Console

from vqrae.benchmarks.report.figures import decibels, percent, significant, tiny_percent
from vqrae.benchmarks.report.table import bench_table, markdown_table, row_names, summary_table
from vqrae.benchmarks.rows import BenchResult, result_schema
from vqrae.runtimes.errors import DataError


def printed(result: BenchResult, width: int = 80) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(bench_table(result))
    return capture.get()


def test_terminal_table_fits_80_columns(result):
    text = printed(result)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_rows_read_as_they_should(result):
    lines = [line.split() for line in printed(result).splitlines()]
    assert ["PyTorch", "FP32", "20.0", "22.0", "25.0", "50.0", "1×", "–", "reference"] in lines
    assert ["ONNX", "Runtime", "FP32", "10.0", "10.5", "11.0", "100", "2.00×", "99.99%", "pass"] in lines
    assert ["PyTorch", "FP32", "2,500", "–", "400", "500", "50.0×"] in lines
    assert ["ONNX", "Runtime", "FP32", "250", "10.0×", "40.0", "500", "50.0×"] in lines
    assert ["PyTorch", "FP32", "20.0", "–", "–"] in lines
    assert ["ONNX", "Runtime", "FP32", "20.0", "0.000012%", "equal"] in lines
    assert ["other", "FP16", "–", "–", "–", "–", "–", "–", "not-executed"] in lines


def test_a_difference_within_the_noise_is_not_claimed(result):
    assert "≈ 1×" in printed(result)
    assert "1.01×" not in printed(result)


def test_markdown(result):
    lines = markdown_table(result).splitlines()
    assert lines[0] == "|  |  | p50 ms | p90 | p99 | img/s | speed | tokens | gate |"
    assert lines[2] == "| encode · batch 1 | PyTorch FP32 | 20.0 | 22.0 | 25.0 | 50.0 | 1× | – | reference |"
    assert len({line.count("|") for line in lines[:6]}) == 1


def test_the_summary_is_one_row_for_each_that_was_executed(result):
    encode = [row for row in result.rows if row.graph == "encode"]
    rows = (*encode, *(row.model_copy(update={"graph": "decode"}) for row in encode))
    lines = summary_table(result.model_copy(update={"rows": rows})).splitlines()
    assert lines[0] == "|  | encode ms | speed | decode ms | speed | tokens | disk MB | gate |"
    assert "| ONNX Runtime FP32 | 10.0 | 2.00× | 10.0 | 2.00× | 99.99% | 20.0 | pass |" in lines
    assert not any("not-executed" in line for line in lines)


def test_a_reason_is_told_once_for_all_that_it_holds_for(result):
    absent = result.rows[-1]
    rows = (
        *result.rows,
        absent.model_copy(update={"precision": "fp32"}),
        absent.model_copy(update={"graph": "decode"}),
    )
    text = markdown_table(result.model_copy(update={"rows": rows}))
    assert text.count("not installed") == 1
    assert "other FP16, other FP32: other is not installed." in text


def test_a_busy_machine_is_told(result):
    assert "do not rely" not in printed(result)
    busy = result.model_copy(update={"contention": 0.4})
    assert "Other programs used 40% of the processors" in markdown_table(busy)
    assert "Other programs used 40% of the processors" in printed(busy)


def test_bundles_alike_in_runtime_and_precision_are_told_apart(result):
    fast = result.rows[1]
    names = row_names([result.rows[0], fast, fast.model_copy(update={"bundle": "tuned"})])
    assert names == ["PyTorch FP32", "ONNX Runtime FP32 (tiny-onnx-fp32)", "ONNX Runtime FP32 (tuned)"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0"), (0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (1234, "1,234")],
)
def test_significant(value, text):
    assert significant(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (1.0, "100%"), (0.999999, "99.99%"), (0.5, "50.00%"), (0.0, "0.00%")]
)
def test_only_what_is_whole_reads_100_percent(value, text):
    assert percent(value) == text


def test_small_figures():
    assert [tiny_percent(value) for value in (None, 0.0, 1.2e-7, 0.037)] == ["–", "0%", "0.000012%", "3.7%"]
    assert [decibels(value) for value in (None, 100.0, 61.23)] == ["–", "equal", "61.2 dB"]


def test_json_of_something_else_is_refused(result):
    with pytest.raises(DataError, match="benchmark result, the text: got Invalid JSON"):
        BenchResult.from_json("{")
    with pytest.raises(DataError, match=r"rows\.0\.batch: got Input should be a valid integer"):
        BenchResult.from_json(result.to_json().replace('"batch": 1', '"batch": "1"', 1))
    assert set(result_schema()["properties"]) == set(BenchResult.model_fields)
