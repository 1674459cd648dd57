"""What a sceptic asks first: what other programs took meanwhile, the processor's clock and throttling, versions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from vqrae.runtimes.json_text import Record

PACKAGES = (
    "vqrae",
    "numpy",
    "torch",
    "transformers",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "coremltools",
    "tensorrt",
    "tensorrt-rtx",
)
"""Packages whose versions matter to a latency."""
STAT = Path("/proc/stat")
BUSY = 0.1
"""Share of the processors above which no comparison is claimed: threads that wait for each other all wait for the one
that was set aside."""


class ProcessorTime(NamedTuple):
    """Seconds of processor time since some moment, over all processors."""

    total: float
    """Idle time included."""
    busy: float
    own: float
    """Of this process, all threads."""


class Contention:
    """Adds up, over the spans it watches, the processors' time and who used it."""

    def __init__(self) -> None:
        self._total = 0.0
        self._foreign = 0.0

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch the block; does nothing where the system does not tell."""
        before = processor_time()
        yield
        after = processor_time()
        if before and after:
            self._total += after.total - before.total
            self._foreign += (after.busy - before.busy) - (after.own - before.own)

    @property
    def share(self) -> float | None:
        """Fraction of all processors' time that other programs used; None if nothing could be watched."""
        return min(max(self._foreign / self._total, 0.0), 1.0) if self._total else None


def processor_time() -> ProcessorTime | None:
    """What the processors did so far; None where the system does not tell (it needs Linux's /proc/stat)."""
    if not STAT.is_file():
        return None
    with STAT.open() as file:
        # user nice system idle iowait irq softirq steal; guest time, which follows, is part of user
        ticks = [int(value) for value in file.readline().split()[1:9]]
    seconds = [value / os.sysconf("SC_CLK_TCK") for value in ticks]
    times = os.times()
    total = sum(seconds)
    return ProcessorTime(total=total, busy=total - seconds[3] - seconds[4], own=times.user + times.system)


CPUS = Path("/sys/devices/system/cpu")
CPUINFO = Path("/proc/cpuinfo")


class Clock(Record):
    """What was read before and after each group of rounds; nothing is read while a call is timed."""

    least_mhz: float | None
    """Over all cores and readings; None where the system does not tell."""
    most_mhz: float | None
    source: str | None
    """Where it was read: `cpufreq`, the governor's own figure, or `/proc/cpuinfo`, which in a virtual machine is only
    the nominal clock."""
    throttled: int | None
    """How often a core throttled itself for its heat meanwhile; None where the system does not tell."""


class ClockWatch:
    """Reads the clock around the spans it watches."""

    def __init__(self, cpus: Path = CPUS, cpuinfo: Path = CPUINFO) -> None:
        self._cpus, self._cpuinfo = cpus, cpuinfo
        self._mhz: list[float] = []
        self._source: str | None = None
        self._throttled: int | None = None

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch the block."""
        before = self._throttle_count()
        self._read()
        yield
        self._read()
        after = self._throttle_count()
        if before is not None and after is not None:
            self._throttled = (self._throttled or 0) + after - before

    @property
    def found(self) -> Clock:
        """What was read so far."""
        return Clock(
            least_mhz=min(self._mhz, default=None),
            most_mhz=max(self._mhz, default=None),
            source=self._source,
            throttled=self._throttled,
        )

    def _read(self) -> None:
        governors = sorted(self._cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        if governors:
            self._source = "cpufreq"
            self._mhz += [int(file.read_text()) / 1000 for file in governors]  # kHz
        elif self._cpuinfo.is_file():
            lines = [line for line in self._cpuinfo.read_text().splitlines() if line.startswith("cpu MHz")]
            self._source = "/proc/cpuinfo" if lines else None
            self._mhz += [float(line.partition(":")[2]) for line in lines]

    def _throttle_count(self) -> int | None:
        counters = list(self._cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
        return sum(int(file.read_text()) for file in counters) if counters else None


def installed_versions() -> dict[str, str]:
    """Versions of the installed ones among `PACKAGES`."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed
