"""`vqrae tokenize` and `vqrae detokenize`: a data set of images to one of tokens, and back, on Ray Data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vqrae.cli.options import AsJson, BundlePath, WorkerLoading, shared_cores

if TYPE_CHECKING:
    from vqrae.tokenizing.job import Outcome

Data = Annotated[
    str, typer.Argument(help="A folder of images, tars or Parquet files; one; or a pattern.", metavar="DATA")
]
TokenFolder = Annotated[Path, typer.Argument(help="The folder that `vqrae tokenize` has written.", metavar="TOKENS")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder to write, or to go on with.")]
TokenLayout = Annotated[Literal["parquet", "webdataset"], typer.Option("--format", help="Of the files of tokens.")]
ImageLayout = Annotated[
    Literal["folder", "webdataset"], typer.Option("--format", help="PNG files by their keys, or tars.")
]
PartImages = Annotated[
    int, typer.Option(help="Images in a file, which is what a killed worker does again at most.", min=1)
]
Workers = Annotated[int, typer.Option(help="Processes that each hold the bundle.", min=1)]
Gpus = Annotated[float, typer.Option(help="GPUs of each worker.", min=0)]
Batch = Annotated[int, typer.Option(help="Images that are computed together.", min=1)]
Address = Annotated[
    str | None, typer.Option(help="Of a Ray cluster, run on one of its nodes; this machine if not given.")
]


def tokenize(
    bundle: BundlePath,
    data: Data,
    output: Output,
    *,
    layout: TokenLayout = "parquet",
    part_images: PartImages = 1024,
    batch: Batch = 32,
    workers: Workers = 1,
    options: WorkerLoading,
    gpus: Gpus = 0.0,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Tokenize DATA with a BUNDLE; the same command goes on after a kill, here or on a cluster."""
    from vqrae.cli.output import print_note
    from vqrae.runtimes.errors import needing
    from vqrae.runtimes.outputs import check_apart

    check_apart({"--output": output}, [bundle])
    with needing("scale"):
        from vqrae.tokenizing.tokenize import tokenize as run
        from vqrae.tokenizing.workers import WorkerOptions

    load = shared_cores(options, workers, address)
    by = WorkerOptions(load=load, workers=workers, gpus=gpus, address=address)
    with _counting("tokenizing") as progress:
        outcome = run(
            bundle,
            data,
            output,
            by,
            layout=layout,
            batch=batch,
            part_images=part_images,
            progress=progress,
            note=print_note,
        )
    print_outcome(output, outcome, as_json=as_json)


def detokenize(
    bundle: BundlePath,
    tokens: TokenFolder,
    output: Output,
    *,
    layout: ImageLayout = "folder",
    batch: Batch = 32,
    workers: Workers = 1,
    options: WorkerLoading,
    gpus: Gpus = 0.0,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Decode TOKENS with a BUNDLE of the checkpoint that made them; the same command goes on after a kill."""
    from vqrae.cli.output import print_note
    from vqrae.runtimes.errors import needing
    from vqrae.runtimes.outputs import check_apart

    check_apart({"--output": output}, [bundle])
    with needing("scale"):
        from vqrae.tokenizing.detokenize import detokenize as run
        from vqrae.tokenizing.workers import WorkerOptions

    load = shared_cores(options, workers, address)
    by = WorkerOptions(load=load, workers=workers, gpus=gpus, address=address)
    with _counting("decoding") as progress:
        outcome = run(bundle, tokens, output, by, layout=layout, batch=batch, progress=progress, note=print_note)
    print_outcome(output, outcome, as_json=as_json)


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int, int], None]]:
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
