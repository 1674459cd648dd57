"""What a result is written as, by the suffix of the file: `.json`, `.csv`, `.md`, `.html`."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vqrae.benchmarks.report.reconstructions import Reconstructions
from vqrae.benchmarks.report.table import markdown_table
from vqrae.benchmarks.rows import BenchResult, BenchRow
from vqrae.runtimes.manifest import Manifest
from vqrae.runtimes.outputs import check_suffix
from vqrae.runtimes.staging import write_output

CIRCUMSTANCES = ("date", "machine", "contention")
"""Columns of the CSV besides a row's own, so that files of several runs can be joined."""


def write_result(
    path: Path, result: BenchResult, manifests: Sequence[Manifest], pictures: Reconstructions | None = None
) -> None:
    """Write a result as its file's suffix says.

    Args:
        path: the file; it is replaced if it exists.
        result: the benchmark.
        manifests: of the bundles in it; the HTML report shows their evidence.
        pictures: what the HTML report shows of them.

    Raises:
        UsageError: a suffix that is not in `WRITERS`.
        StorageError: the file cannot be written.
    """
    check_output_name(path)
    text = WRITERS[path.suffix.lower()](result, manifests, pictures)
    write_output(path, text)


def check_output_name(path: Path) -> None:
    """Refuse a name that nothing is written under, before any work.

    Raises:
        UsageError: its suffix is not in `WRITERS`.
    """
    check_suffix(path, WRITERS)


def markdown_page(result: BenchResult, table: Callable[[BenchResult], str] = markdown_table) -> str:
    """The tables with the machine, the versions, the date and the command."""
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return f"{table(result)}\n{versions}; {result.date}; `{result.command}`.\n"


def csv_table(result: BenchResult) -> str:
    """A line per row: every field of `BenchRow`, and the circumstances; empty is "not measured"."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, (*BenchRow.model_fields, *CIRCUMSTANCES), lineterminator="\n")
    writer.writeheader()
    shared = {"date": result.date, "machine": str(result.machine), "contention": result.contention}
    for row in result.rows:
        writer.writerow({**row.model_dump(mode="json"), **shared})
    return buffer.getvalue()


def _html(result: BenchResult, manifests: Sequence[Manifest], pictures: Reconstructions | None) -> str:
    from vqrae.benchmarks.report.html import render_report  # brings jinja2

    title = manifests[0].checkpoint.name if manifests else "vqrae bench"
    return render_report(result, manifests, title=title, pictures=pictures)


WRITERS: Mapping[str, Callable[[BenchResult, Sequence[Manifest], Reconstructions | None], str]] = {
    ".json": lambda result, *_: result.to_json(),
    ".csv": lambda result, *_: csv_table(result),
    ".md": lambda result, *_: markdown_page(result),
    ".html": _html,
}
"""Suffix -> what writes the text."""
