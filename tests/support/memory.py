"""How much memory this process holds."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

PAGE = 4096


def resident_mb() -> float:
    """Resident memory in MB (10⁶ bytes), after a collection."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("resident memory is read from Linux's /proc")
    gc.collect()
    return int(statm.read_text().split()[1]) * PAGE / 1e6
