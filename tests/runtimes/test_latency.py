from __future__ import annotations

import gc
from itertools import pairwise
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.latency import MIN_ROUNDS, interleave, latency, median_interval, speedup


def test_candidates_take_turns_of_two_calls():
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    seconds = interleave(calls, rounds=6, warmup=2)
    assert order == list("aabbcc") * 8
    assert {name: len(values) for name, values in seconds.items()} == {"a": 6, "b": 6, "c": 6}
    assert all(value >= 0 for values in seconds.values() for value in values)


def test_progress_counts_every_round_to_the_end():
    told: list[tuple[int, int]] = []
    interleave({"a": lambda: None}, rounds=6, warmup=1, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 7) for done in range(1, 8)]


@pytest.mark.parametrize("fails", [False, True])
def test_collector_is_off_while_timing_and_on_again_after(fails):
    seen: list[bool] = []

    def call() -> None:
        seen.append(gc.isenabled())
        if fails:
            raise ValueError("as a runtime might")

    try:
        interleave({"a": call}, rounds=6, warmup=0)
    except ValueError:
        assert fails
    assert not any(seen)
    assert gc.isenabled()


@pytest.mark.parametrize("frozen", [False, True])
def test_only_what_the_caller_froze_stays_frozen(frozen):
    gc.unfreeze()
    if frozen:
        gc.freeze()
    interleave({"a": lambda: None}, rounds=6, warmup=0)
    assert (gc.get_freeze_count() > 0) is frozen


def test_too_few_rounds_are_refused():
    with pytest.raises(UsageError, match="rounds: got 5; expected at least 6"):
        interleave({}, rounds=5, warmup=0)
    with pytest.raises(UsageError, match="warmup: got -1; expected at least 0"):
        interleave({}, rounds=6, warmup=-1)
    with pytest.raises(UsageError, match="got 5 values; expected at least 6"):
        median_interval([1.0] * 5)


def test_latency_is_in_milliseconds():
    quantiles = latency([value / 1000 for value in range(101)])
    assert (quantiles.p10_ms, quantiles.p50_ms, quantiles.p90_ms, quantiles.p99_ms) == pytest.approx((10, 50, 90, 99))
    assert (quantiles.p50_low_ms, quantiles.p50_high_ms) == pytest.approx((40, 60))  # order statistics of 101 values


def test_speedup_pairs_the_rounds_so_that_drift_cancels():
    drift = [1.0, 1.5, 4.0, 2.0, 9.0, 1.2, 3.0]
    found = speedup([3 * value for value in drift], drift)
    assert (found.speedup, found.speedup_low, found.speedup_high) == pytest.approx((3, 3, 3))


def test_known_ranks_of_the_interval():
    # n = 6: only the extremes leave no more than 5 % outside; n = 30: the 10th and 21st (tables of the sign test).
    assert median_interval(range(1, 7)) == (1, 6)
    assert median_interval(range(1, 31)) == (10, 21)


@given(st.integers(MIN_ROUNDS, 400))
def test_interval_is_the_narrowest_that_covers_95_percent(n):
    low, high = median_interval(range(1, n + 1))
    assert low + high == n + 1
    outside = [2 * sum(comb(n, heads) for heads in range(k)) / 2**n for k in (int(low), int(low) + 1)]
    assert outside[0] <= 0.05 < outside[1]


@given(st.lists(st.floats(0.1, 10), min_size=MIN_ROUNDS, max_size=40))
def test_interval_encloses_the_speedup(ratios):
    found = speedup(ratios, [1.0] * len(ratios))
    assert found.speedup_low <= found.speedup <= found.speedup_high
    assert all(a <= b for a, b in pairwise((min(ratios), found.speedup_low, found.speedup_high, max(ratios))))
