"""`vqrae reconstruct`: images through tokens and back, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqrae.cli.options import BundlePath, ImagePaths, Loading, Rebuild


def reconstruct(
    bundle: BundlePath,
    images: ImagePaths,
    output: Annotated[Path, typer.Option("-o", "--output", help="Picture to write: originals above, results below.")],
    *,
    options: Loading,
    rebuild: Rebuild = False,
) -> None:
    """Encode and decode images with a BUNDLE, and put both side by side."""
    import numpy as np

    from vqrae.benchmarks.report.picture import check_picture_name, reconstruction_picture
    from vqrae.cli.output import console, print_note
    from vqrae.images.numbered import each_image
    from vqrae.runtimes.outputs import check_apart
    from vqrae.runtimes.preprocess import prepare
    from vqrae.runtimes.staging import staged_file
    from vqrae.runtimes.tokenizer import Tokenizer

    check_picture_name(output)
    check_apart({"--output": output}, (bundle, *images))
    with staged_file(output) as staging:
        with Tokenizer.open(bundle, options, rebuild=rebuild) as tokenizer:
            size = tokenizer.image_size
            prepared = [(name, prepare(image, *size)) for name, image in each_image(images, print_note)]
            names, originals = [name for name, _ in prepared], np.stack([image for _, image in prepared])
            results = tokenizer.reconstruct(originals)
        picture = reconstruction_picture(originals, results, names)
        picture.save(staging)
    console.print(f"{output}: {len(names)} reconstructions")
