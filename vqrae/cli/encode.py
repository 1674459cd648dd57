"""`vqrae encode`: images to a file of tokens."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from vqrae.cli.options import BundlePath, ImagePaths, Loading, Rebuild

TOGETHER = 256
"""Images that are held at once."""


def encode(
    bundle: BundlePath,
    images: ImagePaths,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write: .npy, indices int32 (B, h, w).")],
    *,
    features: Annotated[
        Path | None, typer.Option(help="Also write the continuous features here: .npy, float32 (B, h·w, C).")
    ] = None,
    options: Loading,
    rebuild: Rebuild = False,
) -> None:
    """Tokenize images with a BUNDLE."""
    import numpy as np

    from vqrae.cli.output import console, print_note
    from vqrae.images.numbered import each_image
    from vqrae.runtimes.errors import UsageError
    from vqrae.runtimes.outputs import ARRAYS, check_apart, check_suffix
    from vqrae.runtimes.staging import check_room, staged_file
    from vqrae.runtimes.tokenizer import Tokenizer

    outputs = [path for path in (output, features) if path]
    for path in outputs:
        check_suffix(path, ARRAYS)
    check_apart({"--output": output, "--features": features}, (bundle, *images))
    with ExitStack() as stack:  # both or none, and nobody else's meanwhile
        staged = [stack.enter_context(staged_file(path)) for path in outputs]
        named = each_image(images, print_note)
        with Tokenizer.open(bundle, options, rebuild=rebuild) as tokenizer:
            if features and tokenizer.manifest.tokens.feature_width is None:
                raise UsageError("--features", got=f"{bundle}, which gives none", expected="a bundle that does")
            made = [tokenizer.encode(chunk) for chunk in iter(lambda: [it for _, it in islice(named, TOGETHER)], [])]
        arrays = [np.concatenate(parts) for parts in zip(*made, strict=True)]
        for path, staging, array in zip(outputs, staged, arrays, strict=False):
            check_room(path, array.nbytes)
            with staging.open("wb") as file:
                np.save(file, array, allow_pickle=False)
    for path, array in zip(outputs, arrays, strict=False):
        console.print(f"{path}: {array.dtype} {array.shape}")
