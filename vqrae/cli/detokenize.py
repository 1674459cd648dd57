"""`vqrae detokenize`: a data set of tokens back to images, on Ray Data."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vqrae.cli.options import AsJson, BundlePath, WorkerLoading
from vqrae.cli.workers import Address, Batch, Gpus, Workers


class Layout(StrEnum):
    """Of decoded images."""

    FOLDER = "folder"
    WEBDATASET = "webdataset"


def detokenize(
    bundle: BundlePath,
    tokens: Annotated[Path, typer.Argument(help="The folder that `vqrae tokenize` has written.", metavar="TOKENS")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write, or to go on with.")],
    *,
    layout: Annotated[Layout, typer.Option("--format", help="PNG files by their keys, or tars.")] = Layout.FOLDER,
    batch: Batch = 32,
    workers: Workers = 1,
    options: WorkerLoading,
    gpus: Gpus = 0.0,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Decode TOKENS with a BUNDLE of the checkpoint that made them; the same command goes on after a kill."""
    from vqrae.cli.workers import counting, print_note, print_outcome, shared_cores
    from vqrae.runtimes.errors import needing
    from vqrae.runtimes.outputs import check_apart

    check_apart({"--output": output}, [bundle])
    with needing("scale"):
        from vqrae.tokenizing.detokenize import detokenize as run
        from vqrae.tokenizing.workers import WorkerOptions

    options = shared_cores(options, workers, address)
    with counting("decoding") as progress:
        outcome = run(
            bundle,
            tokens,
            output,
            WorkerOptions(workers=workers, load=options, gpus=gpus, address=address),
            layout=layout.value,
            batch=batch,
            progress=progress,
            note=print_note,
        )
    print_outcome(output, outcome, as_json=as_json)
