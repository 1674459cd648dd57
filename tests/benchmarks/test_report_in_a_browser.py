"""The report as a browser takes it: no console message, no request to a network."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from chromium import BROWSER, OPTIONS, needs_browser

from vqrae.benchmarks.measure.limit import Limit
from vqrae.benchmarks.report.html import write_report
from vqrae.benchmarks.rows import BenchResult
from vqrae.runtimes.manifest import Manifest

pytestmark = [pytest.mark.slow, needs_browser]
SIZES = {"phone": (500, 900), "desktop": (1280, 900)}
"""Headless windows are no narrower than 500 pixels."""


def opened(page: Path, size: tuple[int, int] = SIZES["desktop"]) -> tuple[str, list[str], list[str]]:
    """The page's document after it was laid out, what the console said, and what the page asked a network for."""
    log = page.with_suffix(".net.json")
    options = (
        "--headless",
        *OPTIONS,
        "--enable-logging=stderr",
        f"--user-data-dir={page.parent / 'profile'}",
        f"--log-net-log={log}",
        f"--window-size={size[0]},{size[1]}",
        "--dump-dom",
    )
    done = subprocess.run((BROWSER, *options, page.as_uri()), capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    parameters = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    # The browser's own requests have no origin; the page's are those of a file.
    asked = [p["url"] for p in parameters if p.get("initiator", "not an origin") != "not an origin" and "url" in p]
    return done.stdout, console, [url for url in asked if not url.startswith(("data:", "file:"))]


@pytest.fixture
def report(result: BenchResult, manifest: Manifest, tmp_path: Path) -> Path:
    work = {"gmacs": 0.5, "int8_gmacs": 0.0, "traffic_mb": 20.0, "peak_share": 0.5}
    rows = tuple(row.model_copy(update=work) if row.executed else row for row in result.rows)
    limit = Limit(
        graph="encode",
        batch=1,
        threads=2,
        fp32_gflops=100.0,
        fp32_by="PyTorch",
        int8_gops=None,
        int8_by=None,
        memory_gb_s=10.0,
    )
    path = tmp_path / "report.html"
    write_report(path, result.model_copy(update={"rows": rows, "limits": (limit,)}), [manifest], title="tiny")
    return path


@pytest.mark.parametrize("size", SIZES)
def test_the_report_loads_without_a_message_or_a_request(report, size):
    document, console, asked = opened(report, SIZES[size])
    assert "How near to the machine's limit" in document
    assert (console, asked) == ([], [])


def test_a_message_and_a_request_would_be_seen(tmp_path):
    page = tmp_path / "noisy.html"
    page.write_text('<!doctype html><img src="http://127.0.0.1:9/a.png"><script>console.error("ouch")</script>')
    _, console, asked = opened(page)
    assert any("ouch" in line for line in console)
    assert "http://127.0.0.1:9/a.png" in asked
