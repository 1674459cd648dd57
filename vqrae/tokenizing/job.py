"""A run's folder: what it is to become, and how far it is.

`dataset.json` is written first and says what every later run has to agree with. A part is done when its file is there;
its report is written before. When all are done, the reports become `dead-letters.jsonl` and `complete.json`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ValidationError

from vqrae.runtimes.errors import DataError, UsageError, storage_error
from vqrae.runtimes.manifest import Record
from vqrae.runtimes.staging import staged_file
from vqrae.tokenizing.token_files import Layout

JOB_FILE, COMPLETE_FILE, DEAD_LETTERS_FILE = "dataset.json", "complete.json", "dead-letters.jsonl"
REPORTS = "reports"
Shape = TypeVar("Shape", bound=BaseModel)


class DeadLetter(Record):
    """An image that is not in the result."""

    key: str
    reason: str


class Report(Record):
    """What became of a part."""

    images: int
    """In the result."""
    dead: tuple[DeadLetter, ...] = ()


class Outcome(Record):
    """`complete.json`: a run that is over."""

    images: int
    dead_letters: int


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
    parts: int
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
    parts: int


Job = TypeVar("Job", TokenJob, ImageJob)


class JobFolder(Generic[Job]):
    """The folder of a run, new or to be gone on with."""

    def __init__(self, path: Path, job: Job, suffix: str) -> None:
        self.path, self._suffix = path, suffix
        self.job: Job = job

    @classmethod
    def open(cls, path: Path, job: Job, suffix: str) -> Self:
        """Start a run, or find the one that was started; `suffix` is that of the parts' files.

        Raises:
            UsageError: the folder holds another run, or something else.
            StorageError: the operating system refused to write.
        """
        folder = cls(path.resolve(), job, suffix)
        if (path / JOB_FILE).is_file():
            folder._check_same(read_json(path / JOB_FILE, type(job)))
            folder._sweep()
            return folder
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            expected = f"a new or empty folder, or one with the {JOB_FILE} of a run to go on with"
            raise UsageError(str(path), got="something else", expected=expected)
        try:
            (folder.path / REPORTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(path, error) from error
        _write_json(folder.path / JOB_FILE, job.model_dump(mode="json"))
        return folder

    def result(self, name: str) -> Path:
        """The file or folder of a part."""
        return self.path / f"{name}{self._suffix}"

    def report(self, name: str) -> Report:
        """What became of a part that is done."""
        return read_json(self._report(name), Report)

    def write_report(self, name: str, report: Report) -> None:
        """Say what became of a part; its file is to appear right after."""
        _write_json(self._report(name), report.model_dump(mode="json"))

    @property
    def outcome(self) -> Outcome | None:
        """The whole, if the run is over."""
        path = self.path / COMPLETE_FILE
        return read_json(path, Outcome) if path.is_file() else None

    def finish(self, names: list[str]) -> Outcome:
        """Join the reports of all parts."""
        images = dead = 0
        with staged_file(self.path / DEAD_LETTERS_FILE) as staging, staging.open("w", encoding="utf-8") as file:
            for name in names:
                report = self.report(name)
                images, dead = images + report.images, dead + len(report.dead)
                for letter in report.dead:
                    file.write(json.dumps(letter.model_dump(), ensure_ascii=False) + "\n")
        outcome = Outcome(images=images, dead_letters=dead)
        _write_json(self.path / COMPLETE_FILE, outcome.model_dump(mode="json"))
        shutil.rmtree(self.path / REPORTS, ignore_errors=True)
        return outcome

    def _report(self, name: str) -> Path:
        return self.path / REPORTS / f"{name}.json"

    def _check_same(self, found: Job) -> None:
        for field in type(self.job).model_fields:
            got, expected = getattr(found, field), getattr(self.job, field)
            if got != expected:
                remedy = "choose a new folder, or give what the run was started with"
                subject = f"{self.path / JOB_FILE} field {field}"
                raise UsageError(subject, got=repr(got), expected=repr(expected), remedy=remedy)

    def _sweep(self) -> None:
        """Remove what a killed run was writing."""
        for staging in self._stagings():
            if staging.is_dir():
                shutil.rmtree(staging, ignore_errors=True)
            else:
                staging.unlink(missing_ok=True)

    def _stagings(self) -> Iterator[Path]:
        yield from self.path.glob(".staging-*")
        yield from (self.path / REPORTS).glob(".staging-*")


def read_json(path: Path, shape: type[Shape]) -> Shape:
    """Read a file of ours.

    Raises:
        DataError: it is missing, damaged, or of another version.
    """
    try:
        return shape.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(str(path), got="no such file", expected=f"a {shape.__name__}") from error
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        got = f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
        raise DataError(str(path), got=got, expected=f"a {shape.__name__}") from error


def _write_json(path: Path, values: dict[str, Any]) -> None:
    with staged_file(path) as staging:
        staging.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
