"""A run's folder: what it is to become, and how far it is.

`dataset.json` is written first and says what every later run has to agree with. A part is done when its file has the
bytes that its report, written before, says. When all are done, the reports become `dead-letters.jsonl`, `parts.jsonl`
and `complete.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError

from vqrae.images.kinds import key_of
from vqrae.images.report import Damaged, LeftOut, counted, some
from vqrae.runtimes.bundle import sha256_file
from vqrae.runtimes.errors import DataError, UsageError, storage_error
from vqrae.runtimes.json_text import Record, read_model
from vqrae.runtimes.manifest import Sha256
from vqrae.runtimes.staging import RUN_LOCK, write_output
from vqrae.tokenizing.token_files import Layout

JOB_FILE, COMPLETE_FILE = "dataset.json", "complete.json"
DEAD_LETTERS_FILE, LEFT_OUT_FILE = "dead-letters.jsonl", "left-out.jsonl"
PARTS_FILE, SOURCES_FILE = "parts.jsonl", "sources.json"
REPORTS = "reports"
MOST_PARTS = 10**7
_SAME_DATA, _PUT_BACK = "the same data until a run is over", "put it back, or choose a new output folder"
Shape = TypeVar("Shape", bound=BaseModel)


class Report(Record):
    """What became of a part."""

    images: int
    """In the result."""
    dead: tuple[Damaged, ...] = ()
    size: int
    """Of the result, in bytes."""
    sha256: Sha256
    """Of the result; see `content_of`."""
    source_sha256: Sha256
    """Of what was read for it."""


class Sources(Record):
    """The files that a data set is made of, as they were when a run was started."""

    files: dict[str, tuple[int, int]]
    """Name, as `key_of` writes it -> bytes, and time of the last change."""


class Outcome(Record):
    """`complete.json`: a run that is over."""

    images: int
    dead_letters: int
    taken: dict[str, int] = Field(default_factory=dict)
    """How many images of each kind of file, where images were what was read."""
    left_out: dict[str, int] = Field(default_factory=dict)
    """How many files of each kind were not read; `left-out.jsonl` has their names."""


class Aside(NamedTuple):
    """What of a data set's files is in no part."""

    left_out: Sequence[LeftOut] = ()
    damaged: Sequence[Damaged] = ()


def read_aside(folder: Path) -> Aside:
    """What a run that is over has left out and could not read.

    Raises:
        DataError: the record is damaged.
    """
    left_out = _read_lines(folder / LEFT_OUT_FILE, LeftOut) if (folder / LEFT_OUT_FILE).is_file() else []
    return Aside(left_out, _read_lines(folder / DEAD_LETTERS_FILE, Damaged))


class TokenJob(Record):
    """`dataset.json` of a data set of tokens."""

    format: Literal["vqrae-tokens"] = "vqrae-tokens"
    version: Literal[1] = 1
    bundle: str
    bundle_sha256: str
    weights_sha256: str
    """Of the checkpoint: bundles that share it can read each other's tokens."""
    rule: str
    image_size: tuple[int, int]
    grid: tuple[int, int]
    codebook_size: int
    layout: Layout
    batch: int
    part_images: int
    parts: int = Field(ge=1, le=MOST_PARTS)
    parts_sha256: str
    """Of the list of parts: which image is in which."""


class ImageJob(Record):
    """`dataset.json` of a data set of decoded images."""

    format: Literal["vqrae-images"] = "vqrae-images"
    version: Literal[1] = 1
    bundle: str
    bundle_sha256: str
    tokens_parts_sha256: str
    tokens_bundle_sha256: str
    layout: Literal["folder", "webdataset"]
    batch: int
    parts: int = Field(ge=1, le=MOST_PARTS)


Job = TypeVar("Job", TokenJob, ImageJob)


class SomePart(Protocol):
    """A part, of images or of tokens."""

    @property
    def name(self) -> str:
        """What its files are called, without suffix."""

    @property
    def kind(self) -> str:
        """What it is made of: a kind of files."""

    @property
    def images(self) -> int:
        """How many there are."""

    @property
    def files(self) -> tuple[str, ...]:
        """What it is made of."""

    def to_json(self) -> str:
        """As `Work.part` takes it."""


Part = TypeVar("Part", bound=SomePart)


class JobFolder(Generic[Job]):
    """The folder of a run, new or to be gone on with; whoever writes into it has claimed it (`claimed_folder`)."""

    def __init__(self, path: Path, job: Job, suffix: str) -> None:
        self.path, self._suffix = path, suffix
        self.job: Job = job

    @classmethod
    def open(cls, path: Path, job: Job, suffix: str, parts: Sequence[SomePart]) -> Self:
        """Start a run, or find the one that was started; `suffix` is that of the parts' files.

        Raises:
            UsageError: the folder holds another run, or something else.
            StorageError: the operating system refused to write.
        """
        folder = cls(path, job, suffix)
        started = (path / JOB_FILE).is_file()
        if started:
            folder._check_listed({key_of(file) for part in parts for file in part.files})
            folder._check_same(read_json(path / JOB_FILE, type(job)))
        elif any(entry.name != RUN_LOCK for entry in path.iterdir()):
            expected = f"a new or empty folder, or one with the {JOB_FILE} of a run to go on with"
            raise UsageError(str(path), got="something else", expected=expected)
        try:
            (path / REPORTS).mkdir(exist_ok=True)
        except OSError as error:
            raise storage_error(path, error) from error
        if not started:
            _write_json(path / JOB_FILE, job.model_dump(mode="json"))
        return folder

    def result(self, name: str) -> Path:
        """The file or folder of a part."""
        return self.path / f"{name}{self._suffix}"

    def report(self, name: str) -> Report:
        """What became of a part that is done."""
        return read_json(self._report(name), Report)

    def seal(self, name: str, staging: Path, *, images: int, source_sha256: str, dead: Iterable[Damaged] = ()) -> None:
        """Say what became of a part, whose file or folder is whole and is to be moved into place right after."""
        size, sha256 = content_of(staging)
        made = Report(images=images, dead=tuple(dead), size=size, sha256=sha256, source_sha256=source_sha256)
        _write_json(self._report(name), made.model_dump(mode="json"))

    def whole(self, name: str) -> Report | None:
        """The report of a part that is done and has the bytes that were written; None where it is to be done."""
        try:
            report = self.report(name)
        except DataError:
            return None  # it was not done, or by an earlier version, or the report is damaged
        return report if self._has_written(name, report) else None

    def missing(
        self, root: Path, parts: Sequence[Part], source_sha256: Callable[[Part], str], note: Callable[[str], None]
    ) -> list[Part]:
        """The parts to be done: those without a whole result.

        Args:
            root: the folder that the parts' source files are in.
            parts: all of them.
            source_sha256: the hash of what a part is made of, as its files are now.
            note: told what is done again, and what was not compared.

        Raises:
            UsageError: a source that a result was made of, or will be, is another one by now; names it.
        """
        reports = {part.name: report for part in parts if (report := self.whole(part.name)) is not None}
        again = sum(part.name not in reports and os.path.lexists(self.result(part.name)) for part in parts)
        if again:
            note(f"{again} parts are not what was written, or lack the hash of later versions: done again")
        self._check_sources(root, parts, reports, source_sha256, note)
        return [part for part in parts if part.name not in reports]

    def settled(self, parts: Sequence[SomePart], note: Callable[[str], None]) -> Outcome | None:
        """The whole, if the run is over and every part has the bytes that were written.

        Where one has not, the run is open again, and only such parts are to be done.
        """
        path, names = self.path / COMPLETE_FILE, [part.name for part in parts]
        if not path.is_file():
            return None
        known = self.path / PARTS_FILE
        if not known.is_file() and all(map(self._is_something, names)):
            return read_json(path, Outcome)  # an earlier version wrote no hashes
        reports = _reports(known) if known.is_file() else []
        whole = {name: it for name, it in zip(names, reports, strict=False) if it and self._has_written(name, it)}
        damaged = [name for name in names if name not in whole]
        if not damaged:
            shutil.rmtree(self.path / REPORTS, ignore_errors=True)
            return read_json(path, Outcome)
        note(f"the run was over, but {len(damaged)} parts are not what was written, such as {damaged[0]}")
        for name, report in whole.items():
            _write_json(self._report(name), report.model_dump(mode="json"))
        path.unlink()
        return None

    def finish(self, parts: Sequence[SomePart], aside: Aside = Aside()) -> Outcome:  # noqa: B008 - immutable
        """Join the reports of all parts, and what of the data is in none."""
        reports: list[Report] = [self.report(part.name) for part in parts]
        dead = [*aside.damaged, *(letter for report in reports for letter in report.dead)]
        of_images = isinstance(self.job, TokenJob)
        records: dict[str, Sequence[Record]] = {DEAD_LETTERS_FILE: dead, PARTS_FILE: reports}
        records |= {LEFT_OUT_FILE: aside.left_out} if of_images else {}
        for file, lines in records.items():
            text = "".join(json.dumps(line.model_dump(), ensure_ascii=False) + "\n" for line in lines)
            write_output(self.path / file, text, lock=False)
        taken: Counter[str] = Counter()
        for part, report in zip(parts, reports, strict=True):
            taken[part.kind] += report.images
        outcome = Outcome(
            images=taken.total(),
            dead_letters=len(dead),
            taken=dict(taken) if of_images else {},
            left_out=counted(aside.left_out),
        )
        _write_json(self.path / COMPLETE_FILE, outcome.model_dump(mode="json", exclude_defaults=True))
        shutil.rmtree(self.path / REPORTS, ignore_errors=True)
        return outcome

    def _check_sources(
        self,
        root: Path,
        parts: Sequence[Part],
        reports: Mapping[str, Report],
        source_sha256: Callable[[Part], str],
        note: Callable[[str], None],
    ) -> None:
        """Compare size and time of the sources with those at the run's start, and where they differ, the content.

        Of parts that are not done yet no content is known: there another size is a change, and another time is told.
        """
        before = self._sources()
        names = {key_of(file): file for part in parts for file in part.files}
        now = {key: _size_and_time(root / file) for key, file in names.items()}
        changed: dict[str, None] = {}
        moved = 0
        for part in parts:
            others = [key for key in map(key_of, part.files) if before.get(key) != now[key]]
            report = reports.get(part.name)
            if report is not None:
                if others and source_sha256(part) != report.source_sha256:
                    changed |= dict.fromkeys(others)
            else:
                resized = [file for file in others if file in before and before[file][0] != now[file][0]]
                changed |= dict.fromkeys(resized)
                moved += len([file for file in others if file in before]) - len(resized)
        if changed:
            got = f"other content than when the run began in {some(list(changed))}"
            raise UsageError(str(root), got=got, expected=_SAME_DATA, remedy=_PUT_BACK)
        if moved:
            note(f"{moved} files of parts not done yet have another time than at the start: read as they are")
        if now != before:
            _write_json(self.path / REPORTS / SOURCES_FILE, Sources(files=now).model_dump(mode="json"))

    def _sources(self) -> dict[str, tuple[int, int]]:
        """The files at the run's start; none where it is new, or the note of them damaged."""
        try:
            return read_json(self.path / REPORTS / SOURCES_FILE, Sources).files
        except DataError:
            return {}

    def _check_listed(self, files: set[str]) -> None:
        before = self._sources().keys() or files
        differing = [("more", files - before), ("fewer", before - files)]
        told = [f"{len(names)} files {what}, such as {min(names)}" for what, names in differing if names]
        if told:
            raise UsageError(str(self.path), got=" and ".join(told), expected=_SAME_DATA, remedy=_PUT_BACK)

    def _has_written(self, name: str, report: Report) -> bool:
        try:
            return content_of(self.result(name)) == (report.size, report.sha256)
        except FileNotFoundError:
            return False

    def _is_something(self, name: str) -> bool:
        result = self.result(name)
        return result.is_dir() or (result.is_file() and result.stat().st_size > 0)

    def _report(self, name: str) -> Path:
        return self.path / REPORTS / f"{name}.json"

    def _check_same(self, found: Job) -> None:
        for field in type(self.job).model_fields:
            got, expected = getattr(found, field), getattr(self.job, field)
            if got != expected:
                remedy = "choose a new folder, or give what the run was started with"
                subject = f"{self.path / JOB_FILE} field {field}"
                raise UsageError(subject, got=repr(got), expected=repr(expected), remedy=remedy)


def content_of(path: Path) -> tuple[int, str]:
    """Bytes and SHA-256 of a file; of a folder, those of all its files with their names.

    Raises:
        FileNotFoundError: it is not there.
    """
    if not path.is_dir():
        return path.stat().st_size, sha256_file(path)
    size, digest = 0, hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            size += file.stat().st_size
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return size, digest.hexdigest()


def _reports(path: Path) -> list[Report | None]:
    """The lines of `parts.jsonl`; None of one that is damaged."""
    found: list[Report | None] = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(Report.model_validate_json(line))
        except ValidationError:
            found.append(None)
    return found


def _size_and_time(path: Path) -> tuple[int, int]:
    """Bytes, and the time of the last change in nanoseconds; -1 of what is not there."""
    try:
        found = path.stat()
    except (FileNotFoundError, PermissionError):
        return -1, -1
    except OSError as error:
        raise storage_error(path, error) from error
    return found.st_size, found.st_mtime_ns


def read_json(path: Path, shape: type[Shape]) -> Shape:
    """Read a file of ours.

    Raises:
        DataError: it is missing, damaged, or of another version.
    """
    return read_model(path, shape, DataError, f"a {shape.__name__}")


def _read_lines(path: Path, shape: type[Shape]) -> list[Shape]:
    try:
        return [shape.model_validate_json(line) for line in path.read_bytes().splitlines()]
    except (FileNotFoundError, ValidationError) as error:
        raise DataError(str(path), got=str(error), expected=f"lines of {shape.__name__}") from error


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_output(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n", lock=False)
