"""The processor's clock and throttling, read from files as the kernel lays them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from vqrae.benchmarks.measure.conditions import Clock, ClockWatch
from vqrae.benchmarks.report.table import clock_notes
from vqrae.benchmarks.rows import BenchResult


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_governor_s_clock_and_the_throttling_meanwhile(tmp_path: Path) -> None:
    for cpu, khz in (("cpu0", 2_000_000), ("cpu1", 3_500_000)):
        write(tmp_path / cpu / "cpufreq" / "scaling_cur_freq", f"{khz}\n")
        write(tmp_path / cpu / "thermal_throttle" / "core_throttle_count", "5\n")
    watched = ClockWatch(tmp_path, tmp_path / "cpuinfo")
    with watched.watch():
        write(tmp_path / "cpu1" / "thermal_throttle" / "core_throttle_count", "7\n")
        write(tmp_path / "cpu0" / "cpufreq" / "scaling_cur_freq", "1500000\n")
    assert watched.found == Clock(least_mhz=1500, most_mhz=3500, source="cpufreq", throttled=2)


def test_a_virtual_machine_tells_its_nominal_clock(tmp_path: Path) -> None:
    write(tmp_path / "cpuinfo", "processor\t: 0\ncpu MHz\t\t: 2596.128\n\nprocessor\t: 1\ncpu MHz\t\t: 2596.128\n")
    watched = ClockWatch(tmp_path / "none", tmp_path / "cpuinfo")
    with watched.watch():
        pass
    assert watched.found == Clock(least_mhz=2596.128, most_mhz=2596.128, source="/proc/cpuinfo", throttled=None)


def test_what_is_not_told_is_said(tmp_path: Path, result: BenchResult) -> None:
    watched = ClockWatch(tmp_path / "none", tmp_path / "cpuinfo")
    with watched.watch():
        pass
    told = result.model_copy(update={"clock": watched.found})
    assert clock_notes(told) == ["processor: clock not readable, throttling not readable."]
    assert clock_notes(result) == []


@pytest.mark.parametrize(
    ("found", "note"),
    [
        (
            Clock(least_mhz=1500, most_mhz=3500, source="cpufreq", throttled=2),
            "processor: clock 1,500 to 3,500 MHz by cpufreq, throttling 2 events.",
        ),
        (
            Clock(least_mhz=2596, most_mhz=2596, source="/proc/cpuinfo", throttled=None),
            "processor: clock 2,596 MHz by /proc/cpuinfo, throttling not readable.",
        ),
    ],
)
def test_the_note(result: BenchResult, found: Clock, note: str) -> None:
    assert clock_notes(result.model_copy(update={"clock": found})) == [note]
