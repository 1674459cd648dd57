"""`vqrae decode`: a file of tokens to images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqrae.cli.options import (
    BundlePath,
    Cache,
    Device,
    Overwrite,
    PublicKey,
    Rebuild,
    SealedIn,
    Streams,
    Threads,
    Trusted,
)


def decode(
    bundle: BundlePath,
    tokens: Annotated[Path, typer.Argument(help=".npy with indices (B, h, w), any integer dtype.", metavar="TOKENS")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for 000.png, 001.png, …")],
    device: Device = None,
    threads: Threads = None,
    rebuild: Rebuild = False,
    trusted: Trusted = False,
    public_key: PublicKey = None,
    streams: Streams = 1,
    cache: Cache = None,
    sealing: SealedIn = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn TOKENS back into images with a BUNDLE."""
    from PIL import Image

    from vqrae.cli.output import console
    from vqrae.runtimes.errors import IndicesError
    from vqrae.runtimes.golden import load_npy
    from vqrae.runtimes.outputs import check_apart
    from vqrae.runtimes.staging import staged_folder
    from vqrae.runtimes.tokenizer import load

    try:
        indices = load_npy(tokens)
    except (ValueError, EOFError, FileNotFoundError, IsADirectoryError) as error:
        raise IndicesError(str(tokens), got=str(error), expected="a .npy file of integers") from error
    check_apart({"--output": output}, (bundle, tokens))
    with staged_folder(output, overwrite=overwrite) as staging:
        loaded = load(
            bundle,
            device=device,
            threads=threads,
            streams=streams,
            cache=cache,
            sealing=sealing,
            rebuild=rebuild,
            trusted=trusted,
            public_key=public_key,
        )
        with loaded as tokenizer:
            images = tokenizer.decode(indices)
        for number, image in enumerate(images):
            Image.fromarray(image).save(staging / f"{number:03d}.png")
    console.print(f"{output}: {len(images)} images of {images.shape[2]}×{images.shape[1]}")
