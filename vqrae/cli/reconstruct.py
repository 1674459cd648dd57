"""`vqrae reconstruct`: images through tokens and back, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqrae.cli.options import (
    BundlePath,
    Cache,
    Device,
    ImagePaths,
    PublicKey,
    Rebuild,
    SealedIn,
    Streams,
    Threads,
    Trusted,
)


def reconstruct(
    bundle: BundlePath,
    images: ImagePaths,
    output: Annotated[Path, typer.Option("-o", "--output", help="Picture to write: originals above, results below.")],
    device: Device = None,
    threads: Threads = None,
    rebuild: Rebuild = False,
    trusted: Trusted = False,
    public_key: PublicKey = None,
    streams: Streams = 1,
    cache: Cache = None,
    sealing: SealedIn = None,
) -> None:
    """Encode and decode images with a BUNDLE, and put both side by side."""
    import numpy as np

    from vqrae.benchmarks.picture import check_picture_name, reconstruction_picture
    from vqrae.cli.output import console
    from vqrae.runtimes.outputs import check_apart
    from vqrae.runtimes.preprocess import prepare
    from vqrae.runtimes.staging import staged_file
    from vqrae.runtimes.tokenizer import load

    check_picture_name(output)
    check_apart({"--output": output}, (bundle, *images))
    with staged_file(output) as staging:
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
            originals = np.stack([prepare(path, *tokenizer.image_size) for path in images])
            results = tokenizer.reconstruct(originals)
        picture = reconstruction_picture(originals, results, [path.stem for path in images])
        picture.save(staging)
    console.print(f"{output}: {len(images)} reconstructions")
