"""Parts, shared out over workers by Ray Data: it starts them, feeds them, and replaces one that dies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import ray.data
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError, RayTaskError

from vqrae.cluster import cluster
from vqrae.runtimes.errors import RuntimeUnavailable, VqraeError
from vqrae.runtimes.manifest import Record
from vqrae.tokenizing.job import JobFolder

MOST_BLOCKS = 4096
"""Ray Data keeps books on each block; a part is a block of its own up to so many."""


class Work(Protocol):
    """Does one part after another, in a process of its own."""

    def part(self, text: str) -> int:
        """Do a part, given as JSON, and move its result into place; returns its images, dead ones included."""


class WorkerOptions(Record):
    """Who does the parts."""

    workers: int = 1
    cpus: int = 1
    """Of each."""
    gpus: float = 0.0
    """Of each."""
    address: str | None = None
    """Of a Ray cluster; None is this machine."""


class Numbered(Protocol):
    """A part, of images or of tokens."""

    @property
    def name(self) -> str:
        """What its files are called, without suffix."""

    @property
    def images(self) -> int:
        """How many there are."""

    def model_dump_json(self) -> str:
        """As `Work.part` takes it."""


class _Calls:
    """What Ray Data calls with a batch of one row."""

    def __init__(self, work: type[Work], arguments: Mapping[str, Any]) -> None:
        self._work = work(**arguments)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        return {"images": [self._work.part(str(text)) for text in batch["part"]]}


def do_missing(
    folder: JobFolder[Any],
    work: type[Work],
    arguments: Mapping[str, Any],
    parts: Sequence[Numbered],
    options: WorkerOptions,
    progress: Callable[[int, int], None],
) -> None:
    """Do the parts whose result is not there yet; `progress` is told the images that are done, and all there are.

    Raises:
        VqraeError: what a worker raised.
        RuntimeUnavailable: Ray does not start, or failed.
    """
    total = sum(part.images for part in parts)
    missing = [part for part in parts if not folder.result(part.name).exists()]
    done = total - sum(part.images for part in missing)
    progress(done, total)
    if not missing:
        return
    with cluster(options.address, cpus=options.workers * options.cpus):
        for images in _done_by_workers(work, arguments, missing, options):
            done += images
            progress(done, total)


def _done_by_workers(
    work: type[Work], arguments: Mapping[str, Any], parts: Sequence[Numbered], options: WorkerOptions
) -> Iterator[int]:
    """The images of each part as it is done, in any order."""
    _be_quiet()
    rows = ray.data.from_items(
        [{"part": part.model_dump_json()} for part in parts], override_num_blocks=min(len(parts), MOST_BLOCKS)
    )
    done = rows.map_batches(
        _Calls,
        fn_constructor_args=(work, arguments),
        batch_size=1,
        compute=ActorPoolStrategy(size=options.workers),
        num_cpus=options.cpus,
        num_gpus=options.gpus,
    )
    try:
        for row in done.iter_rows():
            yield int(row["images"])
    except RayError as error:
        raise _known(error) or RuntimeUnavailable("ray", got=str(error).splitlines()[-1]) from error


def _known(error: BaseException | None) -> VqraeError | None:
    """Our own error, however deep Ray has wrapped it."""
    while error is not None:
        if isinstance(error, VqraeError) and not isinstance(error, RayTaskError):
            return error
        error = error.cause if isinstance(error, RayTaskError) else error.__cause__
    return None


def _be_quiet() -> None:
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
