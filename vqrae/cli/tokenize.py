"""`vqrae tokenize`: a data set of images to a data set of tokens, on Ray Data."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vqrae.cli.options import AsJson, BundlePath, WorkerLoading
from vqrae.cli.workers import Address, Batch, Gpus, Workers


class Layout(StrEnum):
    """Of files of tokens."""

    PARQUET = "parquet"
    WEBDATASET = "webdataset"


def tokenize(
    bundle: BundlePath,
    data: Annotated[
        str, typer.Argument(help="A folder of images, tars or Parquet files; one; or a pattern.", metavar="DATA")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write, or to go on with.")],
    *,
    layout: Annotated[Layout, typer.Option("--format", help="Of the files of tokens.")] = Layout.PARQUET,
    part_images: Annotated[
        int, typer.Option(help="Images in a file, which is what a killed worker does again at most.", min=1)
    ] = 1024,
    batch: Batch = 32,
    workers: Workers = 1,
    options: WorkerLoading,
    gpus: Gpus = 0.0,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Tokenize DATA with a BUNDLE; the same command goes on after a kill, here or on a cluster."""
    from vqrae.cli.workers import counting, print_note, print_outcome, shared_cores
    from vqrae.runtimes.errors import needing
    from vqrae.runtimes.outputs import check_apart

    check_apart({"--output": output}, [bundle])
    with needing("scale"):
        from vqrae.tokenizing.tokenize import tokenize as run
        from vqrae.tokenizing.workers import WorkerOptions

    options = shared_cores(options, workers, address)
    with counting("tokenizing") as progress:
        outcome = run(
            bundle,
            data,
            output,
            WorkerOptions(workers=workers, load=options, gpus=gpus, address=address),
            layout=layout.value,
            batch=batch,
            part_images=part_images,
            progress=progress,
            note=print_note,
        )
    print_outcome(output, outcome, as_json=as_json)
