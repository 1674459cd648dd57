"""OLD against NEW, as a release gate: what got slower, larger or less faithful, beyond its noise and beyond a limit.

Two results of the benchmark are compared, or two bundles, measured now in one interleaved run. Each quantity has a band
within which a change is noise: latency the 95 % interval of its change, start-up and memory `FOOTPRINT_NOISE`, fidelity
what the gate of FP32 allows. A change is over its limit if its figure is, and is no noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vqrae.benchmarks.bench import Progress, bench
from vqrae.benchmarks.candidates.candidate import GRAPHS, bundle_subject
from vqrae.benchmarks.options import BenchOptions
from vqrae.benchmarks.rows import BenchResult, BenchRow, count_of
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import RuntimeUnavailable, UsageError
from vqrae.runtimes.json_text import Record
from vqrae.runtimes.parity import Check
from vqrae.runtimes.precision import PRECISIONS

FOOTPRINT_NOISE = 0.05
"""Share by which start-up and memory differ between two runs of the same: they are medians of a few processes."""
REMEDY = "measure both on one quiet machine, or compare without speed (--ignore-speed)"

QuantityName = Literal["latency", "start-up", "memory", "size", "excess distortion", "token agreement", "decode PSNR"]
Verdict = Literal["better", "same", "worse", "over"]


class Limits(Record):
    """How much worse each quantity may get: shares of the old value, but for fidelity, which is in its own unit."""

    latency: float = 0.05
    start_up: float = 0.25
    memory: float = 0.1
    size: float = 0.01
    excess_distortion: float = 1e-4
    """Difference of two fractions."""
    token_agreement: float = 0.001
    """Difference of two fractions."""
    decode_psnr_db: float = 1.0
    missing: bool = False
    """Whether rows of OLD may be gone, or no longer be timed, in NEW."""
    speed: bool = True
    """Whether latency and start-up are compared at all."""


class Change(Record):
    """One quantity of one row, before and after."""

    group: str
    """Graph, batch and threads, as far as the quantity depends on them."""
    row: str
    """Runtime and precision."""
    quantity: QuantityName
    old: float
    new: float
    change: float
    """How much worse: a share of the old value, or for fidelity a difference; negative is better."""
    low: float | None = None
    """Lower end of the 95 % interval of `change`."""
    high: float | None = None
    """Upper end of the 95 % interval of `change`."""
    noise: float
    """The change up to which nothing is claimed, where there is no interval."""
    limit: float
    against: Literal["the clock", "the reference"] = "the clock"
    """What a latency is told by: milliseconds, or times of the reference's latency in the same run."""

    @property
    def verdict(self) -> Verdict:
        """What to call it."""
        low, high = self.low, self.high
        told = abs(self.change) > self.noise if low is None or high is None else not low <= 0 <= high
        if not told:
            return "same"
        if self.change < 0:
            return "better"
        return "worse" if Check(self.quantity, self.change, "<=", self.limit).kept else "over"


class Comparison(Record):
    """All changes, and what cannot be compared."""

    old: str
    new: str
    limits: Limits
    changes: tuple[Change, ...]
    broken: tuple[str, ...]
    """What fails whatever the limits: a gate that was passed, rows that are gone."""
    added: tuple[str, ...]
    """Rows that only NEW has."""

    @property
    def over(self) -> list[str]:
        """What is over its limit, in words, broken things first."""
        changes = [change for change in self.changes if change.verdict == "over"]
        return [*self.broken, *(describe(change) for change in changes)]


def describe(change: Change) -> str:
    """`encode · batch 1, OpenVINO FP32: latency +7.1% (limit 5%)`."""
    where = f"{change.group}, {change.row}" if change.group else change.row
    return f"{where}: {change.quantity} {amount(change)} (limit {limit_text(change)})"


def amount(change: Change) -> str:
    """How much worse, in the quantity's unit and with its sign: agreement and PSNR fall where they get worse."""
    falls = change.quantity in ("token agreement", "decode PSNR")
    value = -change.change if falls else change.change
    return f"{'+' if value >= 0 else '-'}{_plain(change.quantity, abs(value))}"


def limit_text(change: Change) -> str:
    """The limit in the quantity's unit."""
    return _plain(change.quantity, change.limit)


def _plain(quantity: QuantityName, value: float) -> str:
    return f"{value:.3g} dB" if quantity == "decode PSNR" else f"{value * 100:.3g}%"


@dataclass(frozen=True)
class _Quantity:
    """One quantity that does not depend on the clock's run."""

    name: QuantityName
    value: Callable[[BenchRow], float | None]
    worse: Callable[[float, float], float]
    """How much worse, from old and new."""
    limit: Callable[[Limits], float]
    noise: float = 0.0


_FP32 = PRECISIONS["fp32"].limits


def _share(old: float, new: float) -> float:
    return new / old - 1


def _psnr_lost(old: float, new: float) -> float:
    """Above what FP32 has to reach, a few rounded pixels decide."""
    return min(old, _FP32.min_decode_psnr_db) - min(new, _FP32.min_decode_psnr_db)


_PROCESS = (
    _Quantity("start-up", lambda row: row.start_ms, _share, lambda limits: limits.start_up, FOOTPRINT_NOISE),
    _Quantity("memory", lambda row: row.peak_rss_mb, _share, lambda limits: limits.memory, FOOTPRINT_NOISE),
)
_BUNDLE = (
    _Quantity("size", lambda row: row.size_mb, _share, lambda limits: limits.size),
    _Quantity(
        "excess distortion",
        lambda row: row.excess_distortion,
        lambda old, new: new - old,
        lambda limits: limits.excess_distortion,
        _FP32.max_excess_distortion,
    ),
    _Quantity(
        "token agreement",
        lambda row: row.token_agreement,
        lambda old, new: old - new,
        lambda limits: limits.token_agreement,
        1 - (_FP32.min_token_agreement or 1),
    ),
    _Quantity("decode PSNR", lambda row: row.decode_psnr_db, _psnr_lost, lambda limits: limits.decode_psnr_db),
)


def compare_results(old: BenchResult, new: BenchResult, limits: Limits, names: tuple[str, str]) -> Comparison:
    """Compare two runs of the benchmark, bundle by bundle; their other rows are no release.

    Latency is compared in times of the reference's where both runs have the same one, so that what happened to the
    whole machine in between cancels; else in milliseconds.

    Args:
        old: the run before.
        new: the run after.
        limits: how much worse each quantity may be.
        names: what to call the two.

    Raises:
        UsageError: their latencies cannot be compared: other machines, other threads, or one that was busy; or no row
            of one is in the other.
    """
    if limits.speed:
        _check_circumstances(old, new, names)
    before, after = _keyed(old), _keyed(new)
    both = [key for key in before if key in after]
    if not both:
        raise UsageError(names[1], got="other rows", expected=f"at least one row of {names[0]}")
    pairs = [(before[key], after[key]) for key in both]
    changes: list[Change] = []
    for was, now in pairs:
        if limits.speed:
            changes += _latency_changes(was, now, _reference(old, was), _reference(new, now), limits)
    changes += footprint_changes(pairs, limits)
    return Comparison(
        old=names[0],
        new=names[1],
        limits=limits,
        changes=tuple(changes),
        broken=(*_lost(before, after, limits), *broken_gates(pairs)),
        added=tuple(_title(after[key]) for key in after if key not in before),
    )


def broken_gates(pairs: Sequence[tuple[BenchRow, BenchRow]]) -> list[str]:
    """Parity gates that were passed before and are not now."""
    found = [f"{now.label}: parity {was.gate} -> {now.gate}" for was, now in pairs if was.gate == "pass" != now.gate]
    return list(dict.fromkeys(found))


def footprint_changes(pairs: Sequence[tuple[BenchRow, BenchRow]], limits: Limits) -> Iterator[Change]:
    """Start-up and memory once for each graph and number of threads; size and fidelity once for each bundle."""
    seen: set[tuple[str, ...]] = set()
    for was, now in pairs:
        process = f"{now.graph} · {count_of(now.threads, 'thread')}"
        for group, quantities in ((process, _PROCESS[0 if limits.speed else 1 :]), ("", _BUNDLE)):
            if (group, now.label, now.bundle) not in seen:
                seen.add((group, now.label, now.bundle))
                yield from _static_changes(group, was, now, quantities, limits)


def _static_changes(
    group: str, was: BenchRow, now: BenchRow, quantities: Sequence[_Quantity], limits: Limits
) -> Iterator[Change]:
    """As far as both were measured."""
    for quantity in quantities:
        old, new = quantity.value(was), quantity.value(now)
        if old is not None and new is not None:
            yield Change(
                group=group,
                row=now.label,
                quantity=quantity.name,
                old=old,
                new=new,
                change=quantity.worse(old, new),
                noise=quantity.noise,
                limit=quantity.limit(limits),
            )


def interleaved_change(was: BenchRow, now: BenchRow, limits: Limits) -> Change:
    """The latency of two rows of one run, of which the first is what the second is compared with."""
    return _change("the clock", was, now, (1.0, 1.0, 1.0), _relative(now), limits)


def _latency_changes(
    was: BenchRow, now: BenchRow, old_reference: BenchRow | None, new_reference: BenchRow | None, limits: Limits
) -> Iterator[Change]:
    if not (was.executed and now.executed):
        return
    if old_reference is None or new_reference is None or not _same(old_reference, new_reference):
        yield _change("the clock", was, now, _milliseconds(was), _milliseconds(now), limits)
    else:
        yield _change("the reference", was, now, _relative(was), _relative(now), limits)


_Interval = tuple[float, float, float]
"""A figure between the ends of its 95 % interval: low, median, high."""


def _change(
    against: Literal["the clock", "the reference"],
    was: BenchRow,
    now: BenchRow,
    old: _Interval,
    new: _Interval,
    limits: Limits,
) -> Change:
    """Of two runs: the interval of the ratio is as wide as both allow."""
    return Change(
        group=_group(now),
        row=now.label,
        quantity="latency",
        old=was.p50_ms or 0,
        new=now.p50_ms or 0,
        change=new[1] / old[1] - 1,
        low=new[0] / old[2] - 1,
        high=new[2] / old[0] - 1,
        noise=0,
        limit=limits.latency,
        against=against,
    )


def _milliseconds(row: BenchRow) -> _Interval:
    if row.p50_ms is None or row.p50_low_ms is None or row.p50_high_ms is None:
        raise UsageError(_title(row), got="no interval of its median", expected="one", remedy=REMEDY)
    return row.p50_low_ms, row.p50_ms, row.p50_high_ms


def _relative(row: BenchRow) -> _Interval:
    if row.speedup is None or row.speedup_low is None or row.speedup_high is None:
        raise UsageError(_title(row), got="no speed", expected="times of the reference", remedy=REMEDY)
    return 1 / row.speedup_high, 1 / row.speedup, 1 / row.speedup_low


def _same(one: BenchRow, other: BenchRow) -> bool:
    return (one.runtime, one.runtime_version, one.precision) == (other.runtime, other.runtime_version, other.precision)


def _reference(result: BenchResult, row: BenchRow) -> BenchRow | None:
    """PyTorch's row of the group; None if it has none."""
    found = (other for other in result.rows if other.gate == "reference" and _group(other) == _group(row))
    return next(found, None)


def _check_circumstances(old: BenchResult, new: BenchResult, names: tuple[str, str]) -> None:
    for name, result in zip(names, (old, new), strict=True):
        if result.busy:
            got = f"other programs took {result.contention:.0%} of the processors"
            raise UsageError(name, got=got, expected="a quiet machine", remedy=REMEDY)
    hardware = [(one.machine.cpu, one.machine.cores, one.machine.system) for one in (old, new)]
    if hardware[0] != hardware[1]:
        raise UsageError(names[1], got=str(new.machine), expected=f"{old.machine}, as {names[0]}", remedy=REMEDY)


_Key = tuple[str, ...]


def _keyed(result: BenchResult) -> Mapping[_Key, BenchRow]:
    """Bundles' rows, for nothing else is released, by what they are; by name too, where that leaves two alike."""
    rows = [row for row in result.rows if row.kind == "bundle" and row.gate != "reference"]
    keys = [(_group(row), row.runtime, row.precision or "") for row in rows]
    return {key if keys.count(key) == 1 else (*key, row.bundle): row for key, row in zip(keys, rows, strict=True)}


def _lost(before: Mapping[_Key, BenchRow], after: Mapping[_Key, BenchRow], limits: Limits) -> list[str]:
    if limits.missing:
        return []
    gone = [f"{_title(row)}: gone" for key, row in before.items() if key not in after]
    untimed = [
        f"{_title(row)}: no longer timed ({after[key].reason})"
        for key, row in before.items()
        if key in after and row.executed and not after[key].executed
    ]
    return [*gone, *(untimed if limits.speed else [])]


def _group(row: BenchRow) -> str:
    return f"{row.graph} · batch {row.batch} · {count_of(row.threads, 'thread')}"


def _title(row: BenchRow) -> str:
    return f"{_group(row)}, {row.label}"


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
        **bundle_subject(bundle, None).columns(),
        executed=False,
        reason="not asked for",
        graph=GRAPHS[0],
        batch=1,
        threads=1,
        rounds=0,
    )
