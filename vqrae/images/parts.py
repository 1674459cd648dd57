"""A data set cut into parts: what one worker does at a time, and what a resumed run need not do again.

Which image is in which part depends only on what the data set holds and on the parts' size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vqrae.images.files import data_files
from vqrae.images.kinds import Kind
from vqrae.images.parquet import NoImageColumn, count_rows
from vqrae.images.report import Damaged, LeftOut, lines_of
from vqrae.images.tar import Member, contents_of
from vqrae.runtimes.errors import DataError
from vqrae.runtimes.json_text import Record


class Part(Record):
    """Some images of a data set, in order."""

    number: int
    kind: Kind
    files: tuple[str, ...]
    """Image files; or the one archive or Parquet file. Below the data set's root, with forward slashes."""
    first: int = 0
    """Of the rows of a Parquet file."""
    members: tuple[Member, ...] = ()
    """Of a tar."""
    images: int

    @property
    def name(self) -> str:
        """What its files are called, without suffix."""
        return f"part-{self.number:06d}"

    def to_json(self) -> str:
        """As text in ASCII, whatever bytes the names have: pydantic's own JSON takes UTF-8 only."""
        return json.dumps(self.model_dump())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` gave."""
        return cls.model_validate(json.loads(text))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set."""

    root: Path
    """The folder that `files` are in."""
    parts: tuple[Part, ...]
    left_out: tuple[LeftOut, ...] = ()
    """What is not read."""
    damaged: tuple[Damaged, ...] = ()
    """What cannot be read, as far as it shows before images are."""

    @property
    def images(self) -> int:
        """How many the parts have."""
        return sum(part.images for part in self.parts)


def source_of(data: str | Path, *, size: int) -> Source:
    """Cut a data set into parts of at most `size` images; only names, tars' headers and Parquet's footers are read.

    Args:
        data: see `files.data_files`.
        size: images in a part.

    Raises:
        DataError: there is nothing, or no image in it.
        RuntimeUnavailable: a Parquet file, and pyarrow is not installed.
        StorageError: the operating system refused to read.
    """
    files = data_files(data)
    if files is None:
        expected = "a folder, an image, a tar, a Parquet file, or a pattern"
        raise DataError(str(data), got="no such file or folder", expected=expected)
    left_out, damaged = files.left_out, files.damaged
    cut = list(_of_files(files.names["images"], size))
    for name in files.names["parquet"]:
        alone = files.kinds == ["parquet"] and len(files.names["parquet"]) == 1
        match _rows_of(files.root, name, alone=alone):
            case LeftOut() as other:
                left_out.append(other)
            case Damaged() as unread:
                damaged.append(unread)
            case int() as rows:
                cut += _of_rows(name, rows, size)
    for name in files.names["tar"]:
        contents = contents_of(files.root / name, name)
        left_out += contents.left_out
        damaged += contents.damaged
        cut += _of_members(name, contents.members, size)
    if not cut:
        got = "; ".join(["no images", *lines_of(left_out, damaged)])
        raise DataError(str(data), got=got, expected="at least one")
    parts = tuple(part.model_copy(update={"number": number}) for number, part in enumerate(cut))
    return Source(root=files.root.resolve(), parts=parts, left_out=tuple(left_out), damaged=tuple(damaged))


def _rows_of(root: Path, name: str, *, alone: bool) -> int | LeftOut | Damaged:
    """Images in a Parquet file; raises DataError where it has no column of them and is all that was given."""
    try:
        rows = count_rows(root / name)
    except NoImageColumn as error:
        if alone:
            expected = "one column of encoded images: bytes, or structs with a field `bytes`"
            raise DataError(str(root / name), got=str(error), expected=expected) from error
        return LeftOut.of(name, "no image column")
    return Damaged.of(name, rows) if isinstance(rows, str) else rows


def _of_files(names: list[str], size: int) -> Iterator[Part]:
    for start in range(0, len(names), size):
        files = tuple(names[start : start + size])
        yield Part(number=0, kind="images", files=files, images=len(files))


def _of_rows(name: str, rows: int, size: int) -> Iterator[Part]:
    for first in range(0, rows, size):
        yield Part(number=0, kind="parquet", files=(name,), first=first, images=min(size, rows - first))


def _of_members(name: str, members: list[Member], size: int) -> Iterator[Part]:
    for start in range(0, len(members), size):
        some = tuple(members[start : start + size])
        yield Part(number=0, kind="tar", files=(name,), members=some, images=len(some))
