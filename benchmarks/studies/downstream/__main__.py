"""The tokenizer's three uses, trained and judged from nothing: understanding, generation, reconstruction, and bundles.

    python -m vqrae.benchmarks.studies.downstream -o docs/figures/uses.md --work runs/uses

A run that was stopped goes on: finished steps are JSON files in the work folder, unfinished training goes on from its
last saved state. Each step runs on one thread, so that its figures do not depend on how many there are.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vqrae.benchmarks.studies.ablations.page import reading_of
from vqrae.benchmarks.studies.ablations.workers import worker_processes
from vqrae.benchmarks.studies.downstream.page import write_uses_page
from vqrae.benchmarks.studies.downstream.scale import full_scale
from vqrae.benchmarks.studies.downstream.schedule import Told, perform_all
from vqrae.benchmarks.studies.downstream.steps import steps_of
from vqrae.benchmarks.studies.downstream.workplace import StepResult, Workplace
from vqrae.runtimes.errors import UsageError, run_as_program

MODULE = "vqrae.benchmarks.studies.downstream"


@contextmanager
def _display(console: Console, count: int) -> Iterator[Told]:
    """A bar of steps, what is under way, and a line for each that is finished."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("uses", total=count)

        def tell(under_way: Sequence[str], new: StepResult | None) -> None:
            progress.update(task, description=" | ".join(under_way) or "uses")
            if new is not None:
                progress.advance(task)
                progress.console.print(f"{new.name}: {new.seconds:.0f} s", highlight=False)

        yield tell


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="Markdown file; its reading is kept")
    parser.add_argument("--work", type=Path, default=Path("runs/uses"), help="folder of results and saved states")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    options = parser.parse_args()
    if options.workers < 1:
        raise UsageError("--workers", got=str(options.workers), expected="at least 1")
    scale, place, console = full_scale(), Workplace(options.work), Console()
    reading_of(options.output)  # a page that cannot be kept is told before the work, not after it
    place.claim(scale)
    steps = steps_of(scale)
    with worker_processes(options.workers) as executor, _display(console, len(steps)) as tell:
        perform_all(steps, scale, place.folder, executor, options.workers, tell)
    write_uses_page(scale, place, options.output, MODULE)


if __name__ == "__main__":
    run_as_program(main)
