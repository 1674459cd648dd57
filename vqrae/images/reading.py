"""The encoded images of a part, one after another; what cannot be read is an image with a problem."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vqrae.images.kinds import key_of
from vqrae.images.parquet import read_rows
from vqrae.images.parts import Part
from vqrae.images.tar import read_members
from vqrae.runtimes.errors import storage_error


class EncodedImage(NamedTuple):
    """An image that was read and not decoded."""

    key: str
    """Its path below the data set's root; within an archive or a Parquet file, that file's path, `/`, and its name or
    row. See `key_of`."""
    content: bytes | None
    problem: str | None = None
    """Why there is no content."""


def encoded_images(root: Path, part: Part) -> Iterator[EncodedImage]:
    """Read a part.

    Raises:
        StorageError: the operating system refused to read.
    """
    for number, read in enumerate(_contents(root, part)):
        key = name_of(part, number)
        yield EncodedImage(key, read) if isinstance(read, bytes) else EncodedImage(key, None, read)


def encoded_image(root: Path, part: Part, number: int) -> EncodedImage:
    """One image of a part, by its number from 0 on.

    Raises:
        StorageError: the operating system refused to read.
    """
    one: dict[str, object]
    if part.kind == "images":
        one = {"files": part.files[number : number + 1]}
    elif part.kind == "tar":
        one = {"members": part.members[number : number + 1]}
    else:
        one = {"first": part.first + number}
    return next(encoded_images(root, part.model_copy(update={**one, "images": 1})))


def name_of(part: Part, number: int) -> str:
    """The key of one image of a part."""
    if part.kind == "images":
        return key_of(part.files[number])
    within = part.members[number].name if part.kind == "tar" else part.first + number
    return key_of(f"{part.files[0]}/{within}")


def _contents(root: Path, part: Part) -> Iterator[bytes | str]:
    if part.kind == "images":
        return (_file(root / name) for name in part.files)
    if part.kind == "tar":
        return read_members(root / part.files[0], part.members)
    return read_rows(root / part.files[0], part.first, part.images)


def _file(path: Path) -> bytes | str:
    try:
        return path.read_bytes()
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        return error.strerror or str(error)
    except OSError as error:
        raise storage_error(path, error) from error
