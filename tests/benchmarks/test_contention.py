from __future__ import annotations

import subprocess
import sys
import time

import pytest

from vqrae.benchmarks.measure import conditions as contention
from vqrae.benchmarks.measure.conditions import Contention, ProcessorTime, processor_time

linux_only = pytest.mark.skipif(processor_time() is None, reason="the system does not tell")


def test_own_work_is_not_foreign(monkeypatch):
    readings = iter([ProcessorTime(100, 50, 10), ProcessorTime(110, 58, 17), ProcessorTime(200, 60, 20), None])
    monkeypatch.setattr(contention, "processor_time", lambda: next(readings))
    watched = Contention()
    with watched.watch():
        pass
    assert watched.share == pytest.approx(0.1)  # 10 s passed, 8 were busy, 7 of them with us
    with watched.watch():
        pass
    assert watched.share == pytest.approx(0.1)


def test_nothing_watched_is_unknown():
    assert Contention().share is None


@linux_only
def test_another_program_is_seen():
    watched = Contention()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with watched.watch():
            time.sleep(0.5)
    finally:
        busy.kill()
        busy.wait()
    assert watched.share > 0


@linux_only
def test_processor_time_only_grows():
    before, after = processor_time(), processor_time()
    assert before.total >= before.busy >= before.own >= 0
    assert all(a <= b for a, b in zip(before, after, strict=True))
