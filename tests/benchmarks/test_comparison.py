"""The release gate: what counts as a change, and what stops a release."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from vqrae.benchmarks.comparison import Change, Comparison, Limits, compare_bundles, compare_results
from vqrae.benchmarks.options import BenchOptions
from vqrae.benchmarks.rows import BenchResult
from vqrae.cli.app import main
from vqrae.runtimes.bundle import write_manifest
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.manifest import read_manifest

NAMES = ("old", "new")
Edit = Callable[..., BenchResult]


@pytest.fixture
def timed(result: BenchResult) -> BenchResult:
    """PyTorch and one bundle twice as fast, both with intervals."""
    rows = [
        row.model_copy(update={"p50_low_ms": row.p50_ms * 0.99, "p50_high_ms": row.p50_ms * 1.01})
        for row in result.rows[:2]
    ]
    return result.model_copy(update={"rows": tuple(rows)})


@pytest.fixture
def edited(timed: BenchResult) -> Edit:
    """The result with other values in its bundle's row."""

    def edit(**update: Any) -> BenchResult:
        return timed.model_copy(update={"rows": (timed.rows[0], timed.rows[1].model_copy(update=update))})

    return edit


def changes(comparison: Comparison) -> dict[str, Change]:
    assert {change.row for change in comparison.changes} <= {"ONNX Runtime FP32"}, "PyTorch is not what is released"
    assert len({(change.group, change.quantity) for change in comparison.changes}) == len(comparison.changes)
    return {change.quantity: change for change in comparison.changes}


def test_the_same_twice_is_the_same(timed):
    comparison = compare_results(timed, timed, Limits(), NAMES)
    assert {change.verdict for change in comparison.changes} == {"same"}
    assert comparison.over == []
    assert set(changes(comparison)) == {
        "latency",
        "start-up",
        "memory",
        "size",
        "excess distortion",
        "token agreement",
        "decode PSNR",
    }


def test_a_drift_of_the_whole_machine_cancels(timed, edited):
    slower = edited(p50_ms=15.0)  # in times of PyTorch's latency nothing changed
    latency = changes(compare_results(timed, slower, Limits(), NAMES))["latency"]
    assert (latency.against, latency.verdict, latency.old, latency.new) == ("the reference", "same", 10.0, 15.0)


@pytest.mark.parametrize(
    ("update", "quantity", "verdict"),
    [
        ({"speedup": 1.8, "speedup_low": 1.75, "speedup_high": 1.85}, "latency", "over"),
        ({"speedup": 1.93, "speedup_low": 1.92, "speedup_high": 1.94}, "latency", "worse"),
        ({"speedup": 1.8, "speedup_low": 1.5, "speedup_high": 2.1}, "latency", "same"),  # the interval holds no change
        ({"speedup": 2.4, "speedup_low": 2.3, "speedup_high": 2.5}, "latency", "better"),
        ({"first_token_ms": 1000.0}, "start-up", "over"),
        ({"peak_rss_mb": 510.0}, "memory", "same"),
        ({"peak_rss_mb": 540.0}, "memory", "worse"),
        ({"size_mb": 21.0}, "size", "over"),
        ({"size_mb": 19.0}, "size", "better"),
        ({"excess_distortion": 5e-7}, "excess distortion", "same"),
        ({"excess_distortion": 0.001}, "excess distortion", "over"),
        ({"token_agreement": 0.99}, "token agreement", "over"),
        ({"token_agreement": 0.9995}, "token agreement", "same"),
        ({"decode_psnr_db": 62.0}, "decode PSNR", "same"),  # a few rounded pixels
        ({"decode_psnr_db": 55.0}, "decode PSNR", "over"),
    ],
)
def test_a_change_is_told_from_noise_and_judged_by_its_limit(timed, edited, update, quantity, verdict):
    comparison = compare_results(timed, edited(**update), Limits(), NAMES)
    assert changes(comparison)[quantity].verdict == verdict
    assert len(comparison.over) == (verdict == "over")


def test_without_the_same_reference_the_clock_counts(timed, edited):
    def alone(**update: float | None) -> BenchResult:
        return timed.model_copy(update={"rows": edited(**update).rows[1:]})

    slower = alone(p50_ms=12.0, p50_low_ms=11.9, p50_high_ms=12.1)
    latency = changes(compare_results(alone(), slower, Limits(), NAMES))["latency"]
    assert (latency.against, latency.verdict) == ("the clock", "over")
    assert latency.change == pytest.approx(0.2)
    assert latency.low < latency.change < latency.high
    with pytest.raises(UsageError, match="no interval of its median"):
        compare_results(alone(), alone(p50_low_ms=None), Limits(), NAMES)


def test_a_lost_gate_or_row_stops_a_release_whatever_the_limits(timed, edited, result):
    loose = Limits(token_agreement=1)
    assert compare_results(timed, edited(gate="fail"), loose, NAMES).over == ["ONNX Runtime FP32: parity pass -> fail"]
    more = timed.model_copy(update={"rows": (*timed.rows, result.rows[2])})
    less = more.model_copy(update={"rows": (more.rows[0], more.rows[2])})
    title = "encode · batch 1 · 2 threads, ONNX Runtime FP32"
    assert compare_results(more, less, loose, NAMES).over == [f"{title}: gone"]
    assert compare_results(more, less, Limits(missing=True), NAMES).over == []
    assert compare_results(less, more, loose, NAMES).added == (title,)
    (untimed,) = compare_results(timed, edited(executed=False, reason="no GPU", p50_ms=None), loose, NAMES).over
    assert untimed.endswith("no longer timed (no GPU)")


def test_latencies_that_cannot_be_compared_are_refused(timed):
    busy = timed.model_copy(update={"contention": 0.4})
    with pytest.raises(
        UsageError, match="new: got other programs took 40% of the processors; expected a quiet machine"
    ):
        compare_results(timed, busy, Limits(), NAMES)
    elsewhere = timed.model_copy(update={"machine": timed.machine.model_copy(update={"cpu": "Another"})})
    with pytest.raises(UsageError, match="new: got Another"):
        compare_results(timed, elsewhere, Limits(), NAMES)
    quantities = changes(compare_results(timed, elsewhere, Limits(speed=False), NAMES))
    assert "size" in quantities
    assert "latency" not in quantities


def test_other_rows_are_refused(timed, edited):
    other = timed.model_copy(update={"rows": (timed.rows[1].model_copy(update={"batch": 8}),)})
    with pytest.raises(UsageError, match="new: got other rows; expected at least one row of old"):
        compare_results(timed, other, Limits(), NAMES)


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["compare", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_command_compares_files_and_exits_with_3(timed, edited, tmp_path, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(timed.to_json())
    new.write_text(edited(size_mb=22.0).to_json())
    assert command(old, old) == 0
    assert "≈" in capsys.readouterr().out
    assert command(old, new, "--max-larger", "20%") == 0
    assert "+10%" in capsys.readouterr().out
    assert command(old, new, "--json") == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)["over"] == ["ONNX Runtime FP32: size +10% (limit 1%)"]
    assert "size +10% (limit 1%); expected no worse than" in captured.err
    assert command(old, tmp_path) == 2
    assert command(old, tmp_path / "none.json") == 1


def test_bundles_are_measured_in_one_run(bundle, tmp_path, capsys, monkeypatch):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    manifest = read_manifest(copy / "manifest.json")
    figures = manifest.evidence.figures.model_copy(update={"token_agreement": 0.5})
    evidence = manifest.evidence.model_copy(update={"figures": figures})
    write_manifest(copy, manifest.model_copy(update={"evidence": evidence}))
    # These machines are shared: what is tested is that both are run, not how fast.
    monkeypatch.setattr(BenchResult, "busy", property(lambda self: False))
    comparison = compare_bundles(bundle, copy, Limits(), BenchOptions(threads=1, rounds=6, starts=0))
    latencies = [change for change in comparison.changes if change.quantity == "latency"]
    assert [change.group for change in latencies] == [f"{graph} · batch 1 · 1 thread" for graph in ("encode", "decode")]
    assert all(change.low <= change.change <= change.high for change in latencies)
    assert any("token agreement" in text for text in comparison.over)
    monkeypatch.setattr(BenchResult, "busy", property(lambda self: True))
    with pytest.raises(UsageError, match="this machine: got other programs took"):
        compare_bundles(bundle, copy, Limits(), BenchOptions(threads=1, rounds=6, starts=0))
    assert command(bundle, copy, "--ignore-speed") == 3
    assert "token agreement -" in capsys.readouterr().err
    assert command(bundle, bundle, "--ignore-speed") == 0
