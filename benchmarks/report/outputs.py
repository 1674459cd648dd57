"""What a result is written as, by the suffix of the file: `.json`, `.csv`, `.md`, `.html`."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vqrae.benchmarks.report.reconstructions import Reconstructions, golden_reconstructions
from vqrae.benchmarks.report.table import markdown_table
from vqrae.benchmarks.rows import BenchResult, BenchRow
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import Manifest
from vqrae.runtimes.outputs import check_apart, check_suffix
from vqrae.runtimes.staging import check_new_file, write_output

CIRCUMSTANCES = ("date", "machine", "contention")
"""Columns of the CSV besides a row's own, so that files of several runs can be joined."""


def check_outputs(paths: Sequence[Path], read: Sequence[Path | str]) -> None:
    """Refuse files that could not be written, or that are among what is read, before any work.

    Raises:
        UsageError: a suffix that is not in `WRITERS`, two that are one file, or one that is read.
        StorageError: a folder, a device, or a place that takes no file.
    """
    for path in paths:
        check_suffix(path, WRITERS)
        check_new_file(path)
    check_apart({f"output {number}": path for number, path in enumerate(paths, start=1)}, read)


def write_results(paths: Sequence[Path], result: BenchResult, bundles: Sequence[Path], load: LoadOptions) -> None:
    """Write a result into files, as the suffix of each says; what exists is replaced.

    Args:
        paths: the files.
        result: the benchmark.
        bundles: those in it; the HTML report shows their evidence, and what they reconstruct.
        load: how they are loaded for that.

    Raises:
        UsageError: a suffix that is not in `WRITERS`.
        StorageError: a file cannot be written.
    """
    manifests = [Bundle.open(bundle, public_key=load.public_key).manifest for bundle in bundles] if paths else []
    drawn = any(path.suffix.lower() == ".html" for path in paths)
    pictures = golden_reconstructions(bundles, result, load) if drawn else None
    for path in paths:
        check_suffix(path, WRITERS)
        write_output(path, WRITERS[path.suffix.lower()](result, manifests, pictures))


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
