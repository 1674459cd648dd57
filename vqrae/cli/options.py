"""Options that several verbs share, so that they read alike everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, progress on standard error.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, gpu, …: what the bundle's runtime knows; never replaced by another one silently."),
]
Threads = Annotated[
    int | None,
    typer.Option(help="CPU threads, for what runs on the CPU; the runtime's choice if not given.", min=1),
]
Streams = Annotated[int, typer.Option(help="Chunks of images that go on at once; more for throughput.", min=1)]
Cache = Annotated[Path | None, typer.Option(help="Folder where a runtime may keep what it compiles on load.")]
Rebuild = Annotated[
    bool, typer.Option("--rebuild", help="Build an engine that is for another machine anew, in place, for this one.")
]
Trusted = Annotated[
    bool, typer.Option("--trusted", help="Load an engine that brings code of its own; only from an origin you trust.")
]
PublicKey = Annotated[
    Path | None,
    typer.Option(help="File of the key that must have signed it; the signature is the file BUNDLE.sig beside it."),
]
SealedIn = Annotated[
    Literal["disk", "memory"] | None,
    typer.Option(
        "--sealing",
        help="Where the verified bytes are kept while they are loaded: a private copy, or memory, which takes twice as "
        "much of it and no disk.",
    ),
]
BundlePath = Annotated[Path, typer.Argument(help="A bundle's folder.", metavar="BUNDLE")]
ImagePaths = Annotated[list[Path], typer.Argument(help="Image files.", metavar="IMAGE...")]


def settings(texts: list[str], option: str = "--set") -> dict[str, str]:
    """`KEY=VALUE`, several times, as a mapping.

    Raises:
        UsageError: a text without `=`.
    """
    from vqrae.runtimes.errors import UsageError

    pairs = [text.partition("=") for text in texts]
    for text, (_, equals, _) in zip(texts, pairs, strict=True):
        if not equals:
            raise UsageError(option, got=repr(text), expected="KEY=VALUE")
    return {key: value for key, _, value in pairs}


def fraction(option: str, text: str) -> float:
    """`0.05%` or `0.0005` as a fraction.

    Raises:
        UsageError: no share, or not from 0 to 100 %.
    """
    from vqrae.runtimes.errors import UsageError

    number, percent = text.removesuffix("%"), text.endswith("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(option, got=repr(text), expected="a share from 0 to 100%, such as 0.05%")
    return value
