"""The processor's clock and throttling while we measured, as far as the system tells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vqrae.runtimes.manifest import Record

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
