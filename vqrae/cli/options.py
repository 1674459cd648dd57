"""Options that several verbs share, so that they read alike everywhere, alone or in groups."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, get_args

import typer

from vqrae.runtimes.load_options import LoadOptions, Sealing

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
    Sealing | None,
    typer.Option(
        "--sealing",
        help="Where the verified bytes are kept while they are loaded: a private copy, or memory, which takes twice as "
        "much of it and no disk.",
    ),
]
BundlePath = Annotated[Path, typer.Argument(help="A bundle's folder.", metavar="BUNDLE")]
ImagePaths = Annotated[
    list[Path], typer.Argument(help="Image files; or folders, tars or Parquet files of images.", metavar="IMAGE...")
]
WorkerThreads = Annotated[
    int | None, typer.Option(help="CPU threads of each worker or replica; the cores shared out if not given.", min=1)
]


@dataclass(frozen=True)
class Group:
    """Marks a verb's parameter that stands for several options: those that `make` takes; the verb gets what it gives.

    Typer knows no such thing: `spelled_out` shows it a verb whose options stand there one by one.
    """

    make: Callable[..., object]


def load_options(
    device: Device = None,
    threads: Threads = None,
    streams: Streams = 1,
    cache: Cache = None,
    sealing: SealedIn = None,
    trusted: Trusted = False,
    public_key: PublicKey = None,
) -> LoadOptions:
    """How the verb's bundle is loaded."""
    return LoadOptions(
        device=device,
        threads=threads,
        streams=streams,
        cache=cache,
        sealing=sealing,
        trusted=trusted,
        public_key=public_key,
    )


def worker_load_options(
    device: Device = None,
    threads: WorkerThreads = None,
    streams: Streams = 1,
    cache: Cache = None,
    sealing: SealedIn = None,
    trusted: Trusted = False,
    public_key: PublicKey = None,
) -> LoadOptions:
    """How each of several processes loads the bundle."""
    return load_options(device, threads, streams, cache, sealing, trusted, public_key)


def timed_load_options(
    device: Device = None,
    cache: Cache = None,
    sealing: SealedIn = None,
    trusted: Trusted = False,
    public_key: PublicKey = None,
) -> LoadOptions:
    """How a verb loads bundles that it times: with what threads and streams is its own matter."""
    return LoadOptions(device=device, cache=cache, sealing=sealing, trusted=trusted, public_key=public_key)


Loading = Annotated[LoadOptions, Group(load_options)]
"""Every verb that loads a bundle has it."""
WorkerLoading = Annotated[LoadOptions, Group(worker_load_options)]
TimedLoading = Annotated[LoadOptions, Group(timed_load_options)]


def shared_cores(options: LoadOptions, workers: int, address: str | None) -> LoadOptions:
    """Threads of each worker: as asked for, or this machine's cores shared out over several."""
    if options.threads is not None or workers == 1 or address is not None:
        return options
    return replace(options, threads=max(1, (os.cpu_count() or 1) // workers))


def spelled_out(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb whose groups are replaced by their options, each under its own name."""
    signature = inspect.signature(verb, eval_str=True)
    groups: dict[str, tuple[Group, list[str]]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        found = [part for part in get_args(parameter.annotation) if isinstance(part, Group)]
        options = [*inspect.signature(found[0].make, eval_str=True).parameters.values()] if found else [parameter]
        parameters += [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]
        if found:
            groups[parameter.name] = found[0], [option.name for option in options]

    def called(**values: object) -> None:
        made = {name: group.make(**{key: values.pop(key) for key in keys}) for name, (group, keys) in groups.items()}
        verb(**values, **made)

    called.__name__, called.__doc__, called.__module__ = verb.__name__, verb.__doc__, verb.__module__
    called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined] # read by inspect
    return called


def settings(texts: list[str], option: str = "--set", expected: str = "KEY=VALUE") -> dict[str, str]:
    """`KEY=VALUE`, several times, as a mapping.

    Raises:
        UsageError: a text without `=`.
    """
    from vqrae.runtimes.errors import UsageError

    pairs = [text.partition("=") for text in texts]
    for text, (key, equals, _) in zip(texts, pairs, strict=True):
        if not equals or not key:
            raise UsageError(option, got=repr(text), expected=expected)
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
