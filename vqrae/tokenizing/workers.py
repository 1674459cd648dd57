"""Parts, shared out over workers by Ray Data: it starts them, feeds them, and replaces one that dies."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import ray.data
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from vqrae.cluster import cluster
from vqrae.runtimes import errors
from vqrae.runtimes.errors import RuntimeUnavailable, VqraeError, storage_error
from vqrae.runtimes.load_options import LoadOptions
from vqrae.tokenizing.job import Aside, Job, JobFolder, Outcome, Part, SomePart

MOST_BLOCKS = 4096
"""Ray Data keeps books on each block; a part is a block of its own up to so many."""


class Work(Protocol):
    """Does one part after another, in a process of its own."""

    def part(self, text: str) -> int:
        """Do a part, given as JSON, and move its result into place; returns its images, dead ones included."""


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Who does the parts."""

    load: LoadOptions
    """How each of them loads the bundle."""
    workers: int = 1
    gpus: float = 0.0
    """Of each."""
    address: str | None = None
    """Of a Ray cluster; None is this machine."""

    @property
    def cpus(self) -> int:
        """Of each."""
        return self.load.threads or 1


class _Calls:
    """What Ray Data calls with a batch of one row. Our own errors are results: Ray would lose what an error is."""

    def __init__(self, work: type[Work], arguments: Mapping[str, Any]) -> None:
        self._make = partial(work, **arguments)
        self._work: Work | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        try:
            self._work = self._work or self._make()
            return {"images": [self._work.part(str(text)) for text in batch["part"]], "error": [""]}
        except VqraeError as error:
            told = error
        except OSError as error:
            told = storage_error(error.filename or "input or output", error)
        return {"images": [0], "error": [_text_of(told)]}


def run_job(
    work: type[Work],
    folder: JobFolder[Job],
    parts: Sequence[Part],
    source_sha256: Callable[[Part], str],
    bundle: Path,
    root: Path,
    *,
    options: WorkerOptions,
    progress: Callable[[int, int], None],
    note: Callable[[str], None],
    aside: Aside = Aside(),  # noqa: B008 - immutable
) -> Outcome:
    """Do what is missing of a run, and join what all of it has come to.

    Args:
        work: is made in every worker, of `bundle`, `root`, how to load, the folder's path and its job.
        folder: of the run, which is claimed.
        parts: all of them.
        source_sha256: the hash of what a part is made of, as its files are now.
        bundle: its folder.
        root: the folder that the parts' source files are in.
        options: who does the parts.
        progress: called with the images that are done, those of earlier runs included, and how many there are.
        note: told what a run that goes on has found.
        aside: what of the data is in no part.
    """
    total = sum(part.images for part in parts)
    if (outcome := folder.settled(parts, note)) is not None:
        progress(total, total)
        return outcome
    missing = folder.missing(root, parts, source_sha256, note)
    before = total - sum(part.images for part in missing)
    progress(before, total)
    arguments = {"bundle": bundle, "load": options.load, "root": root, "folder": folder.path, "job": folder.job}
    do_parts(work, arguments, missing, options, lambda done: progress(before + done, total))
    return folder.finish(parts, aside)


def do_parts(
    work: type[Work],
    arguments: Mapping[str, Any],
    parts: Sequence[SomePart],
    options: WorkerOptions,
    progress: Callable[[int], None],
) -> None:
    """Do parts; `progress` is told the images that are done.

    Raises:
        VqraeError: what a worker raised.
        RuntimeUnavailable: Ray does not start, or failed.
    """
    if not parts:
        return
    done = 0
    with cluster(options.address, cpus=options.workers * options.cpus):
        for images in _done_by_workers(work, arguments, parts, options):
            done += images
            progress(done)


def _done_by_workers(
    work: type[Work], arguments: Mapping[str, Any], parts: Sequence[SomePart], options: WorkerOptions
) -> Iterator[int]:
    """The images of each part as it is done, in any order."""
    _be_quiet()
    rows = ray.data.from_items(
        [{"part": part.to_json()} for part in parts], override_num_blocks=min(len(parts), MOST_BLOCKS)
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
            if row["error"]:
                raise _error_of(row["error"])
            yield int(row["images"])
    except RayError as error:
        raise RuntimeUnavailable("ray", got=str(error).splitlines()[-1]) from error


def _text_of(error: VqraeError) -> str:
    return json.dumps([type(error).__name__, error.subject, error.got, error.expected, error.remedy])


def _error_of(text: str) -> VqraeError:
    kind, subject, got, expected, remedy = json.loads(text)
    made: VqraeError = getattr(errors, kind)(subject, got=got, expected=expected, remedy=remedy)
    return made


def _be_quiet() -> None:
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
