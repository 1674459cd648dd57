"""A benchmark's result as a table: in the terminal (rich), and in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from vqrae.benchmarks.measure.throughput import Throughput
from vqrae.benchmarks.report.figures import decibels, percent, ratio, significant, times, tiny_percent
from vqrae.benchmarks.rows import BenchResult, BenchRow, count_of

Groups = Sequence[tuple[str, Sequence[BenchRow]]]
"""Titles, and the rows under them."""
GATE_STYLES = {"pass": "green", "fail": "bold red", "not-executed": "yellow", "reference": "dim", "unjudged": "dim"}


@dataclass(frozen=True)
class Column:
    """One column: its heading, and what a row says in it."""

    title: str
    cell: Callable[[BenchRow], str]


_SPEED = (
    Column("p50 ms", lambda row: significant(row.p50_ms)),
    Column("p90", lambda row: significant(row.p90_ms)),
    Column("p99", lambda row: significant(row.p99_ms)),
    Column("img/s", lambda row: significant(row.images_per_s)),
    Column("speed", times),
    Column("tokens", lambda row: percent(row.token_agreement)),
    Column("gate", lambda row: row.gate),
)
_PEAK = Column("peak", lambda row: percent(row.peak_share, 0))


def speed_columns(result: BenchResult) -> tuple[Column, ...]:
    """`speed` is relative to the group's first row, `tokens` is agreement with the reference.

    `peak`, where the limit was measured, is the share of the machine's own peak that the arithmetic came to.
    """
    return (*_SPEED[:5], _PEAK, *_SPEED[5:]) if result.limits else _SPEED


START_COLUMNS = (
    Column("start ms", lambda row: significant(row.start_ms)),
    Column("start", lambda row: ratio(row.start_speedup)),
    Column("load ms", lambda row: significant(row.load_ms)),
    Column("RSS MB", lambda row: significant(row.peak_rss_mb)),
    Column("RSS", lambda row: ratio(row.memory_ratio)),
)
"""`start ms` is launch, import, load and first call of a fresh process, `load ms` the third of these; `start` is how
many times faster that is than the group's first row; `RSS` is the peak memory in times of the graph's weights."""
BUNDLE_COLUMNS = (
    Column("disk MB", lambda row: significant(row.size_mb)),
    Column("excess", lambda row: tiny_percent(row.excess_distortion)),
    Column("decode", lambda row: decibels(row.decode_psnr_db)),
)
"""`excess` and `decode` are excess distortion and decoder PSNR against the reference: both graphs' alike."""
FOOTPRINT_COLUMNS = (*START_COLUMNS, *BUNDLE_COLUMNS)


def bench_table(result: BenchResult) -> Group:
    """The result for a terminal of at least 80 columns: latencies, then what a fresh process and a disk pay."""
    columns = speed_columns(result)
    if result.limits:
        columns = tuple(column for column in columns if column.title != "img/s")  # two figures of one would not fit
    speed = _table(columns, result.groups())
    start = _table(START_COLUMNS, result.footprint_groups())
    bundle = _table(BUNDLE_COLUMNS, [("size and fidelity", result.footprint_groups()[0][1])])
    below = [Text(note, style="dim") for note in _notes(result)]
    return Group(
        speed, "", start, "", bundle, "", *below, Text(caption(result), style="yellow" if result.busy else "dim")
    )


def markdown_table(result: BenchResult) -> str:
    """The same in Markdown. Ends in a newline."""
    speed = _markdown(speed_columns(result), result.groups())
    footprint = _markdown(FOOTPRINT_COLUMNS, result.footprint_groups())
    notes = "".join(f"{note}  \n" for note in _notes(result))
    return f"{speed}\n{footprint}\n{notes}{caption(result)}\n"


def summary_table(result: BenchResult) -> str:
    """One row for each candidate that was executed, both graphs at the first batch size, in Markdown."""
    firsts: dict[str, Sequence[BenchRow]] = {}
    for _, rows in result.groups():
        firsts.setdefault(rows[0].graph, rows)
    titles = ("encode ms", "speed", "decode ms", "speed", "tokens", "disk MB", "gate")
    lines = [_line("", *titles), _line("---", *("--:" for _ in titles))]
    for encode, decode in zip(firsts["encode"], firsts["decode"], strict=True):
        if encode.gate != "not-executed":
            speeds = [cell for row in (encode, decode) for cell in (significant(row.p50_ms), times(row))]
            size, tokens = significant(encode.size_mb), percent(encode.token_agreement)
            lines.append(_line(encode.label, *speeds, tokens, size, encode.gate))
    notes = "".join(f"{note}  \n" for note in untimed_notes(result))
    return "\n".join(lines) + f"\n\n{notes}{caption(result)}\n"


def _notes(result: BenchResult) -> list[str]:
    return [
        *untimed_notes(result),
        *limit_notes(result),
        *throughput_notes(result),
        *handling_notes(result),
        *clock_notes(result),
    ]


def untimed_notes(result: BenchResult) -> list[str]:
    """Why rows have no latency: a sentence for each reason, with the candidates that it holds for."""
    labels: dict[str, list[str]] = {}
    for row in result.rows:
        if row.reason and row.label not in labels.setdefault(row.reason, []):
            labels[row.reason].append(row.label)
    return [f"{', '.join(those)}: {reason}." for reason, those in labels.items()]


def limit_notes(result: BenchResult) -> list[str]:
    """What the peak is that rows are shares of, its range over the groups, in one sentence; none if it was left out."""
    if not result.limits:
        return []
    fp32 = _range([limit.fp32_gflops for limit in result.limits], "GFLOP/s")
    parts = [f"FP32 {fp32} ({_names(limit.fp32_by for limit in result.limits)})"]
    int8 = [limit for limit in result.limits if limit.int8_gops is not None]
    if int8:
        gops = _range([limit.int8_gops or 0 for limit in int8], "GOP/s")
        parts.append(f"INT8 {gops} ({_names(limit.int8_by or '' for limit in int8)})")
    copied = _range([limit.memory_gb_s for limit in result.limits], "GB/s")
    return [f"peak: {', '.join(parts)}, memory {copied}, measured in turns with the rows."]


def throughput_notes(result: BenchResult) -> list[str]:
    """A sentence for each bundle, batch size and number of threads; none where it was not measured."""
    return [
        f"{found.label}: {significant(found.images_per_s)} photographs/s from disk to tokens on disk "
        f"({_taken(found)}), {percent(found.share, 0)} "
        f"({percent(found.share_low, 0)} to {percent(found.share_high, 0)}) of what inference alone reaches."
        for found in result.throughputs
    ]


def _taken(found: Throughput) -> str:
    streams = [count_of(found.streams, "stream")] if found.streams > 1 else []
    return ", ".join(
        [f"batch {found.batch}", *streams, count_of(found.threads, "thread"), count_of(found.images, "file")]
    )


def handling_notes(result: BenchResult) -> list[str]:
    """What happens around inference, in one sentence; none where it was not measured."""
    found = result.handling
    if found is None:
        return []
    read, resize, write = (significant(value) for value in (found.read_ms, found.resize_ms, found.write_ms))
    return [
        f"around inference, an image: {read} ms to read and decode its file, {resize} ms to resize it, {write} ms to "
        f"write one as PNG (one thread, {count_of(found.images, 'file')})."
    ]


def clock_notes(result: BenchResult) -> list[str]:
    """The processor's clock and throttling, or that the system does not tell; none in a result without either."""
    found = result.clock
    if found is None:
        return []
    clock, throttling = "not readable", "not readable"
    if found.least_mhz is not None and found.most_mhz is not None:
        clock = f"{_range([found.least_mhz, found.most_mhz], 'MHz')} by {found.source}"
    if found.throttled is not None:
        throttling = count_of(found.throttled, "event")
    return [f"processor: clock {clock}, throttling {throttling}."]


def _range(values: Sequence[float], unit: str) -> str:
    low, high = significant(min(values)), significant(max(values))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def _names(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def caption(result: BenchResult) -> str:
    """Threads and machine; on a machine that was busy with something else, first a warning."""
    where = f"{threads(result)} on {result.machine}"
    return f"{busy_warning(result)} {where}" if result.busy else where


def busy_warning(result: BenchResult) -> str:
    """What to tell a reader whose machine was busy."""
    taken = f"{result.contention or 0:.0%}"
    return f"Other programs used {taken} of the processors meanwhile: do not rely on these latencies."


def threads(result: BenchResult) -> str:
    """`1 thread`, `2 threads`."""
    counts = sorted({row.threads for row in result.rows})
    return f"{', '.join(map(str, counts))} {'thread' if counts == [1] else 'threads'}"


def row_names(rows: Sequence[BenchRow]) -> list[str]:
    """What to call the rows of one group: runtime and precision, and the bundle where that leaves two alike."""
    labels = [row.label for row in rows]
    return [
        label if labels.count(label) == 1 else f"{label} ({row.bundle})"
        for label, row in zip(labels, rows, strict=True)
    ]


def _table(columns: Sequence[Column], groups: Groups) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True)
    for title, rows in groups:
        table.add_row(Text(title, style="bold"))
        for name, row in zip(row_names(rows), rows, strict=True):
            cells = [Text(column.cell(row), style=_style(column, row)) for column in columns]
            table.add_row(Text(f"  {name}"), *cells, style="" if row.executed else "dim")
    return table


def _style(column: Column, row: BenchRow) -> str:
    return GATE_STYLES[row.gate] if column.title == "gate" else ""


def _markdown(columns: Sequence[Column], groups: Groups) -> str:
    lines = [_line("", "", *(column.title for column in columns)), _line("---", "---", *("--:" for _ in columns))]
    for title, rows in groups:
        for name, row in zip(row_names(rows), rows, strict=True):
            lines.append(_line(title if row is rows[0] else "", name, *(column.cell(row) for column in columns)))
    return "\n".join(lines) + "\n"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
