"""`vqrae detokenize`: a data set of tokens back to images, on Ray Data."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vqrae.cli.options import AsJson, BundlePath, Cache, Device, PublicKey, SealedIn, Trusted
from vqrae.cli.workers import Address, Batch, Gpus, Workers, WorkerThreads


class Layout(StrEnum):
    """Of decoded images."""

    FOLDER = "folder"
    WEBDATASET = "webdataset"


def detokenize(
    bundle: BundlePath,
    tokens: Annotated[Path, typer.Argument(help="The folder that `vqrae tokenize` has written.", metavar="TOKENS")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write, or to go on with.")],
    layout: Annotated[Layout, typer.Option("--format", help="PNG files by their keys, or tars.")] = Layout.FOLDER,
    batch: Batch = 32,
    workers: Workers = 1,
    threads: WorkerThreads = None,
    device: Device = None,
    gpus: Gpus = 0.0,
    cache: Cache = None,
    sealing: SealedIn = None,
    trusted: Trusted = False,
    public_key: PublicKey = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Decode TOKENS with a BUNDLE of the checkpoint that made them; the same command goes on after a kill."""
    from vqrae.cli.needs import needing
    from vqrae.cli.workers import counting, print_note, print_outcome, worker_options, worker_session
    from vqrae.runtimes.outputs import check_apart

    check_apart({"--output": output}, [bundle])
    with needing("scale"):
        from vqrae.tokenizing.detokenize import detokenize as run

    with counting("decoding") as progress:
        outcome = run(
            bundle,
            tokens,
            output,
            worker_options(workers, threads, gpus, address),
            worker_session(workers, threads, address, device=device, cache=cache, trusted=trusted, sealing=sealing),
            layout=layout.value,
            batch=batch,
            public_key=public_key,
            progress=progress,
            note=print_note,
        )
    print_outcome(output, outcome, as_json=as_json)
