"""What `tokenize` and `detokenize` share: options of workers, the count of images, and the last line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqrae.runtimes.load_options import LoadOptions

if TYPE_CHECKING:
    from vqrae.tokenizing.job import Outcome

Workers = Annotated[int, typer.Option(help="Processes that each hold the bundle.", min=1)]
Gpus = Annotated[float, typer.Option(help="GPUs of each worker.", min=0)]
Batch = Annotated[int, typer.Option(help="Images that are computed together.", min=1)]
Address = Annotated[
    str | None, typer.Option(help="Of a Ray cluster, run on one of its nodes; this machine if not given.")
]


def shared_cores(options: LoadOptions, workers: int, address: str | None) -> LoadOptions:
    """Threads of each worker: as asked for, or this machine's cores shared out over several."""
    if options.threads is not None or workers == 1 or address is not None:
        return options
    return replace(options, threads=max(1, (os.cpu_count() or 1) // workers))


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with images, images a second, and the time left; gives what is to be called with how many are done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from vqrae.cli.output import progress_console

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=progress_console) as bar:
        task = bar.add_task(what, total=None, rate="")
        first: int | None = None

        def count(done: int, total: int) -> None:
            nonlocal first
            first = done if first is None else first  # those of an earlier run say nothing about this one's speed
            elapsed = bar.tasks[0].elapsed or 0.0
            rate = f"{(done - first) / elapsed:.1f} images/s" if elapsed and done > first else ""
            bar.update(task, completed=done, total=total, rate=rate)

        yield count


def print_note(text: str) -> None:
    """Tell on standard error what a run that goes on has found."""
    from vqrae.cli.output import progress_console

    progress_console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)


def print_outcome(output: Path, outcome: Outcome, *, as_json: bool) -> None:
    """Say what a run has come to: what was taken, left out and damaged, with names."""
    from vqrae.cli.output import console, print_json
    from vqrae.images.report import lines_of, taken_words
    from vqrae.tokenizing.job import DEAD_LETTERS_FILE, LEFT_OUT_FILE, read_aside

    aside = read_aside(output)
    if as_json:
        print_json({**outcome.model_dump(exclude_defaults=True), "names": aside._asdict()})
        return
    lines = [f"{output}: {outcome.images} images{taken_words(outcome.taken)}"]
    for file, told in ((LEFT_OUT_FILE, lines_of(aside.left_out, ())), (DEAD_LETTERS_FILE, lines_of((), aside.damaged))):
        lines += [f"{line}: {output / file}" for line in told]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
