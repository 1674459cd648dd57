"""Two bundles, measured now in one interleaved run, as a release gate: the noise of two runs is spared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vqrae.benchmarks.bench import Progress, bench
from vqrae.benchmarks.candidates.candidate import GRAPHS, bundle_subject
from vqrae.benchmarks.comparison import (
    REMEDY,
    Change,
    Comparison,
    Limits,
    broken_gates,
    footprint_changes,
    interleaved_change,
)
from vqrae.benchmarks.options import BenchOptions
from vqrae.benchmarks.rows import BenchRow
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import RuntimeUnavailable, UsageError


def compare_bundles(
    old: Path,
    new: Path,
    limits: Limits,
    options: BenchOptions = BenchOptions(),
    *,
    progress: Progress = lambda stage, done, total: None,
) -> Comparison:
    """Compare two bundles; options as for `bench`. Without speed nothing is run.

    Raises:
        BundleError: one is invalid.
        UsageError: they are for images of different sizes, or the machine is busy.
        RuntimeUnavailable: one of them cannot be timed here.
    """
    key = options.load.public_key
    pair = Bundle.open(old, public_key=key), Bundle.open(new, public_key=key)
    _check_sizes(*pair)
    broken = broken_gates([(_untimed_row(pair[0]), _untimed_row(pair[1]))])
    changes: list[Change] = []
    if not limits.speed:
        changes += footprint_changes([(_untimed_row(pair[0]), _untimed_row(pair[1]))], limits)
    else:
        result = bench([old, new], options=options, progress=progress)
        if result.busy:
            got = f"other programs took {result.contention:.0%} of the processors"
            raise UsageError("this machine", got=got, expected="a quiet one", remedy=REMEDY)
        changes += [interleaved_change(*_timed(rows), limits) for _, rows in result.groups()]
        changes += footprint_changes([_timed(rows) for _, rows in result.groups()], limits)
    return Comparison(old=str(old), new=str(new), limits=limits, changes=tuple(changes), broken=tuple(broken), added=())


def _timed(rows: Sequence[BenchRow]) -> tuple[BenchRow, BenchRow]:
    """OLD's row and NEW's.

    Raises:
        RuntimeUnavailable: one of them was not timed.
    """
    for row in rows:
        if not row.executed:
            raise RuntimeUnavailable(row.bundle, got=row.reason, expected="a bundle that can be timed", remedy=REMEDY)
    if len(rows) < 2:
        taken = f"batch {rows[0].batch} of {rows[0].graph} taken by {rows[0].bundle} only"
        raise UsageError("--batch", got=taken, expected="a size that both take")
    return rows[0], rows[1]


def _check_sizes(old: Bundle, new: Bundle) -> None:
    sizes = [f"{b.manifest.preprocessing.height}x{b.manifest.preprocessing.width}" for b in (old, new)]
    if sizes[0] != sizes[1]:
        raise UsageError(str(new.path), got=f"images of {sizes[1]}", expected=f"{sizes[0]}, as {old.path}")


def _untimed_row(bundle: Bundle) -> BenchRow:
    return BenchRow(
        **asdict(bundle_subject(bundle, None)),
        executed=False,
        reason="not asked for",
        graph=GRAPHS[0],
        batch=1,
        threads=1,
        rounds=0,
    )
