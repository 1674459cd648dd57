"""How much of the machine other programs took while we measured: what a sceptic asks first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

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
