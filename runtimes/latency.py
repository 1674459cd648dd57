"""Latencies that can be compared: everything is measured in the same rounds, and a difference comes with its interval.

Covered: drift of clock and load (the candidates take turns, so it hits all alike), cold caches and foreign threads that
still spin (each turn starts with a call that is not timed), the collector (off while timing). Not covered: how the
latency changes when several calls run at once.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import comb

import numpy as np

from vqrae.runtimes.errors import UsageError

MIN_ROUNDS = 6
"""With fewer there is no 95 % interval of a median."""
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Quantiles of one candidate's latency, in milliseconds."""

    p10_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p50_low_ms: float
    """Lower end of the median's 95 % interval."""
    p50_high_ms: float
    """Upper end of the median's 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """How many times faster than a reference, round by round, with the 95 % interval of the median."""

    speedup: float
    speedup_low: float
    speedup_high: float


def interleave(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[float]]:
    """Time several calls in turns: A B C, A B C, ….

    A turn is two calls, of which the second is timed: by then the caches hold this candidate's weights, and the threads
    of the one before have stopped spinning.

    Args:
        calls: name -> what to time.
        rounds: timed turns of each; at least `MIN_ROUNDS`.
        warmup: turns of each before them that are thrown away.
        progress: called after every round with the rounds done and the rounds in all, warm-up included.

    Returns:
        Name -> `rounds` durations in seconds, in order; equal positions belong to the same round.

    Raises:
        UsageError: too few rounds, or a negative warm-up.
    """
    if rounds < MIN_ROUNDS:
        raise UsageError("rounds", got=str(rounds), expected=f"at least {MIN_ROUNDS}, for an interval of the median")
    if warmup < 0:
        raise UsageError("warmup", got=str(warmup), expected="at least 0")
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with _collector_off():
        for turn in range(warmup + rounds):
            for name, call in calls.items():
                duration = _timed_turn(call)
                if turn >= warmup:
                    seconds[name].append(duration)
            gc.collect()
            progress(turn + 1, warmup + rounds)
    return seconds


def latency(seconds: Sequence[float]) -> Latency:
    """Quantiles of durations given in seconds.

    Raises:
        UsageError: fewer than `MIN_ROUNDS` of them.
    """
    p10, p50, p90, p99 = (float(value) * 1000 for value in np.quantile(seconds, (0.1, 0.5, 0.9, 0.99)))
    low, high = median_interval(seconds)
    return Latency(p10_ms=p10, p50_ms=p50, p90_ms=p90, p99_ms=p99, p50_low_ms=low * 1000, p50_high_ms=high * 1000)


def speedup(reference: Sequence[float], seconds: Sequence[float]) -> Speedup:
    """Median over rounds of reference / candidate, both from one `interleave`, so that drift cancels in each ratio."""
    ratios = [slow / fast for slow, fast in zip(reference, seconds, strict=True)]
    low, high = median_interval(ratios)
    return Speedup(speedup=float(np.median(ratios)), speedup_low=low, speedup_high=high)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The interval that holds the median with 95 % confidence, whatever the distribution (order statistics).

    The k-th smallest and k-th largest of n values enclose the median unless fewer than k of n fair coins show heads.

    Raises:
        UsageError: fewer than `MIN_ROUNDS` values.
    """
    n = len(values)
    if n < MIN_ROUNDS:
        raise UsageError("an interval of the median", got=f"{n} values", expected=f"at least {MIN_ROUNDS}")
    ordered = sorted(values)
    k, fewer_heads = 0, 1
    while 2 * fewer_heads <= (1 - CONFIDENCE) * 2**n:
        k += 1
        fewer_heads += comb(n, k)
    return ordered[k - 1], ordered[n - k]


def _timed_turn(call: Callable[[], object]) -> float:
    call()
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@contextmanager
def _collector_off() -> Iterator[None]:
    """The garbage collector runs between rounds only, when asked, and looks at what the rounds made only: fast.

    A caller who froze what there was means it to stay so: then the next measurement has less to look at, too.
    """
    was_on, was_frozen = gc.isenabled(), gc.get_freeze_count() > 0
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        if not was_frozen:
            gc.unfreeze()
        if was_on:
            gc.enable()
