"""`vqrae compare`: OLD against NEW as a release gate, two bundles or two results of the benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqrae.cli.options import AsJson, Threads, TimedLoading, fraction

if TYPE_CHECKING:
    from vqrae.benchmarks.comparison import Change, Comparison, Limits
    from vqrae.benchmarks.options import BenchOptions

LIMITS, MEASURING = "Limits", "Measuring two bundles"
STYLES = {"better": "green", "same": "dim", "worse": "yellow", "over": "bold red"}


def compare(
    old: Annotated[Path, typer.Argument(help="A bundle's folder, or what `vqrae bench --json` printed.")],
    new: Annotated[Path, typer.Argument(help="The same kind of thing, to be released.")],
    loading: TimedLoading,
    max_slower: Annotated[str, typer.Option(help="Latency.", rich_help_panel=LIMITS)] = "5%",
    max_slower_start: Annotated[
        str, typer.Option(help="Start of a process, until its first token.", rich_help_panel=LIMITS)
    ] = "25%",
    max_more_memory: Annotated[str, typer.Option(help="Peak memory.", rich_help_panel=LIMITS)] = "10%",
    max_larger: Annotated[str, typer.Option(help="Size on disk.", rich_help_panel=LIMITS)] = "1%",
    max_more_distortion: Annotated[
        str, typer.Option(help="Excess distortion, as a difference.", rich_help_panel=LIMITS)
    ] = "0.01%",
    max_less_agreement: Annotated[
        str, typer.Option(help="Token agreement, as a difference.", rich_help_panel=LIMITS)
    ] = "0.1%",
    max_less_psnr: Annotated[
        float, typer.Option(help="dB of the decoder's PSNR.", min=0, rich_help_panel=LIMITS)
    ] = 1.0,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Rows of OLD may be gone.", rich_help_panel=LIMITS)
    ] = False,
    ignore_speed: Annotated[
        bool, typer.Option("--ignore-speed", help="All but latency and start-up.", rich_help_panel=LIMITS)
    ] = False,
    batch: Annotated[
        list[int] | None, typer.Option(help="Images per call; repeatable.", min=1, rich_help_panel=MEASURING)
    ] = None,
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(help="Timed calls of each.", min=6, rich_help_panel=MEASURING)] = 30,
    as_json: AsJson = False,
) -> None:
    """Tell what got slower, larger or less faithful from OLD to NEW, beyond its noise; exit 3 if over a limit.

    Bundles are measured here and now, in one interleaved run; of results, rows of the same runtime and precision are
    compared.
    """
    from vqrae.benchmarks.comparison import Limits
    from vqrae.benchmarks.options import BenchOptions
    from vqrae.cli.output import print_json
    from vqrae.runtimes.errors import GateFailure

    limits = Limits(
        latency=fraction("--max-slower", max_slower),
        start_up=fraction("--max-slower-start", max_slower_start),
        memory=fraction("--max-more-memory", max_more_memory),
        size=fraction("--max-larger", max_larger),
        excess_distortion=fraction("--max-more-distortion", max_more_distortion),
        token_agreement=fraction("--max-less-agreement", max_less_agreement),
        decode_psnr_db=max_less_psnr,
        missing=allow_missing,
        speed=not ignore_speed,
    )
    if old.is_dir() and new.is_dir():
        options = BenchOptions(batch_sizes=batch or (1,), threads=threads, rounds=rounds, load=loading)
        comparison = _of_bundles(old, new, limits, options)
    else:
        comparison = _of_results(old, new, limits)
    print_json(_for_programs(comparison)) if as_json else _print_table(comparison)
    if over := comparison.over:
        more = f"; and {len(over) - 1} more" if len(over) > 1 else ""
        raise GateFailure(str(new), got=over[0] + more, expected=f"no worse than {old}")


def _of_bundles(old: Path, new: Path, limits: Limits, options: BenchOptions) -> Comparison:
    from vqrae.benchmarks.comparison import compare_bundles
    from vqrae.cli.output import progress_console

    with progress_console.status("") as status:
        return compare_bundles(
            old,
            new,
            limits,
            options,
            progress=lambda stage, done, total: status.update(f"{stage}: {done} of {total}"),
        )


def _of_results(old: Path, new: Path, limits: Limits) -> Comparison:
    from vqrae.benchmarks.comparison import compare_results
    from vqrae.benchmarks.rows import BenchResult
    from vqrae.runtimes.errors import UsageError

    for path, other in ((old, new), (new, old)):
        if path.is_dir():
            raise UsageError(str(other), got="no folder", expected=f"a bundle's folder, because {path} is one")
    results = [BenchResult.from_json(path.read_bytes()) for path in (old, new)]
    return compare_results(results[0], results[1], limits, (str(old), str(new)))


def _for_programs(comparison: Comparison) -> dict[str, object]:
    """The comparison with its verdicts, which are computed."""
    values = comparison.model_dump(mode="json")
    for value, change in zip(values["changes"], comparison.changes, strict=True):
        value["verdict"] = change.verdict
    return {**values, "over": comparison.over}


def _print_table(comparison: Comparison) -> None:
    """A few lines for each bundle, graph and batch; what broke and what is new below."""
    from rich.text import Text

    from vqrae.cli.output import console

    console.print(_line("", "old", "new", "change", "limit"), style="dim", highlight=False)
    title = ""
    for change in comparison.changes:
        if title != (title := f"{change.group}, {change.row}" if change.group else change.row):
            console.print(title, style="bold", highlight=False, markup=False, soft_wrap=True)
        verdict = Text(change.verdict, style=STYLES[change.verdict])
        console.print(Text(_line(*_cells(change))) + verdict, soft_wrap=True)
    notes = [*comparison.broken, *(f"{row}: only in {comparison.new}" for row in comparison.added)]
    if any(change.against == "the reference" for change in comparison.changes):
        notes.append("latency: its change is in times of PyTorch's in the same run")
    for note in notes:
        console.print(note, style="dim", highlight=False, markup=False, soft_wrap=True)


def _line(name: str, old: str, new: str, change: str, limit: str) -> str:
    return f"  {name:<19}{old:>14}{new:>14}{change:>11}{limit:>9}  "


def _cells(change: Change) -> tuple[str, str, str, str, str]:
    from vqrae.benchmarks.comparison import amount, limit_text
    from vqrae.benchmarks.report.figures import decibels, percent, significant, tiny_percent

    writers = {
        "latency": lambda value: f"{significant(value)} ms",
        "start-up": lambda value: f"{significant(value)} ms",
        "memory": lambda value: f"{significant(value)} MB",
        "size": lambda value: f"{significant(value)} MB",
        "excess distortion": tiny_percent,
        "token agreement": percent,
        "decode PSNR": decibels,
    }
    write = writers[change.quantity]
    told = "≈" if change.verdict == "same" else amount(change)
    return change.quantity, write(change.old), write(change.new), told, limit_text(change)
