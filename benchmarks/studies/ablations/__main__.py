"""The paper's claims on codebook and strategy, tried at a size that runs here: tables, plots, and what was expected.

    python -m vqrae.benchmarks.studies.ablations -o docs/figures/ablations.md --work runs/ablations --workers 2

A run that was stopped goes on: finished runs are JSON files in the work folder, unfinished ones go on from their last
saved state. What was changed in the grid is run anew, the rest is kept. The page shows all that is in the work folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vqrae.benchmarks.studies.ablations.findings import Findings
from vqrae.benchmarks.studies.ablations.grid import EXPERIMENTS, AblationRun, Experiment, Scale, full_scale, runs_of
from vqrae.benchmarks.studies.ablations.page import reading_of, write_ablation_page
from vqrae.benchmarks.studies.ablations.runs import RunResult, Workplace
from vqrae.benchmarks.studies.ablations.workers import Told, perform_all, worker_processes
from vqrae.runtimes.errors import UsageError, run_as_program

MODULE = "vqrae.benchmarks.studies.ablations"
SPEED_SECONDS = 1800
"""Of finished runs that the remaining time is told from."""


def unfinished(runs: Sequence[AblationRun], place: Workplace) -> list[AblationRun]:
    """Those of the runs that have no result yet."""
    return [run for run in runs if place.result(run) is None]


def findings_in(place: Workplace, scale: Scale) -> Findings:
    """All finished runs of a work folder that belong to the scale's tables."""
    results = {run.key: place.result(run) for run in runs_of(scale.cells())}
    return Findings(scale, {key: result for key, result in results.items() if result is not None})


@contextmanager
def _display(console: Console, runs: Sequence[AblationRun]) -> Iterator[Told]:
    """A bar of optimizer steps, what is under way, and a line for each run that is finished."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, speed_estimate_period=SPEED_SECONDS) as progress:
        task = progress.add_task("ablations", total=sum(run.steps for run in runs))

        def tell(under_way: Sequence[AblationRun], new: RunResult | None) -> None:
            progress.update(task, description=" | ".join(run.name for run in under_way) or "ablations")
            if new is not None:
                progress.advance(task, new.run.steps)
                progress.console.print(_line(new), highlight=False)

        yield tell


def _line(result: RunResult) -> str:
    figures = {"psnr_db": "PSNR {:.2f} dB", "perplexity": "perplexity {:.0f}", "probe_mean": "probe {:.1%}"}
    told = [form.format(result.figures[name]) for name, form in figures.items() if name in result.figures]
    return f"{result.run.name}: {', '.join(told)}; {result.seconds:.0f} s"


def _list(console: Console, runs: Sequence[AblationRun], place: Workplace) -> None:
    missing = unfinished(runs, place)
    for run in runs:
        console.print(f"{run.steps:5d} steps  {'     ' if run in missing else 'done '} {run.name}", highlight=False)
    steps = sum(run.steps for run in missing)
    console.print(f"{len(missing)} of {len(runs)} runs to do, {steps} steps", highlight=False)


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="Markdown file; its reading is kept")
    parser.add_argument("--work", type=Path, default=Path("runs/ablations"), help="folder of results and saved states")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--only", choices=EXPERIMENTS, action="append", help="run only this table; all if not given")
    parser.add_argument("--list", action="store_true", help="only list the runs, their steps and what is done")
    options = parser.parse_args()
    if options.workers < 1:
        raise UsageError("--workers", got=str(options.workers), expected="at least 1")
    scale, place, console = full_scale(), Workplace(options.work), Console()
    wanted: Sequence[Experiment] = options.only or EXPERIMENTS
    runs = runs_of([cell for cell in scale.cells() if cell.experiment in wanted])
    if options.list:
        _list(console, runs, place)
        return
    reading_of(options.output)  # a page that cannot be kept is told before the work, not after it
    place.prepare()
    with worker_processes(options.workers) as executor, _display(console, unfinished(runs, place)) as tell:
        perform_all(runs, place.folder, executor, options.workers, tell)
    write_ablation_page(findings_in(place, scale), options.output, MODULE)


if __name__ == "__main__":
    run_as_program(main)
