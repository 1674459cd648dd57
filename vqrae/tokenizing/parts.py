"""A data set cut into parts: what one worker does at a time, and what a resumed run need not do again.

Which image is in which part depends only on what the data set holds and on the parts' size.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from vqrae.calibration.sources import DAMAGED
from vqrae.runtimes.errors import DataError, storage_error
from vqrae.runtimes.image_files import IMAGE_SUFFIXES
from vqrae.runtimes.manifest import Record
from vqrae.training.data.data_files import PARQUET, data_files

Kind = Literal["images", "parquet", "tar"]


class Part(Record):
    """Some images of a data set, in order."""

    number: int
    kind: Kind
    files: tuple[str, ...]
    """Image files; or the one archive or Parquet file. Below the data set's root, with forward slashes."""
    first: int = 0
    """Of the images in the archive, or of the rows."""
    images: int
    """How many there are, as far as they can be counted beforehand."""
    last: bool = True
    """Whether this is all of the file from `first` on: then damage that ends the file early belongs here."""

    @property
    def name(self) -> str:
        """What its files are called, without suffix."""
        return f"part-{self.number:06d}"


class Source(Record):
    """A data set."""

    root: str
    """The folder that `files` are in."""
    parts: tuple[Part, ...]

    @property
    def images(self) -> int:
        """How many there are, as far as they can be counted beforehand."""
        return sum(part.images for part in self.parts)


def source_of(data: str, *, size: int) -> Source:
    """Cut a data set into parts of at most `size` images; only names, archives' headers and Parquet's footers are read.

    Args:
        data: a folder of images, a tar or Parquet file, a folder of those, or a pattern; see `data_files`.
        size: images in a part.

    Raises:
        DataError: there is nothing, or files of several kinds.
        StorageError: the operating system refused to read.
    """
    found = data_files(data)
    if found is None:
        raise DataError(data, got="no such file or folder", expected="a folder, a tar, a Parquet file, or a pattern")
    folder = Path(data)
    root = folder if folder.is_dir() else Path(found.paths[0]).parent
    try:
        if found.suffixes == IMAGE_SUFFIXES:
            cut = _of_files(found.paths, root, size)
        else:
            cut = _of_containers("parquet" if found.suffixes == PARQUET else "tar", found.paths, root, size)
        parts = tuple(part.model_copy(update={"number": number}) for number, part in enumerate(cut))
    except OSError as error:
        raise storage_error(error.filename or data, error) from error
    return Source(root=str(root.resolve()), parts=parts)


def tar_images(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The images of an archive, in its order; it forgets what it has passed, so that memory does not grow."""
    for member in archive:
        archive.members = []  # type: ignore[attr-defined] # the type stubs leave it out
        if member.isfile() and Path(member.name).suffix.lower() in IMAGE_SUFFIXES:
            yield member


def check_damage(path: Path, error: Exception) -> None:
    """Let what says that a file is damaged pass; some readers raise OSError for that, without a number.

    Raises:
        StorageError: it is the operating system that refused.
    """
    if isinstance(error, OSError) and error.errno is not None:
        raise storage_error(path, error) from error


def _of_files(paths: list[Path], root: Path, size: int) -> Iterator[Part]:
    names = [path.relative_to(root).as_posix() for path in paths]
    for start in range(0, len(names), size):
        files = tuple(names[start : start + size])
        yield Part(number=0, kind="images", files=files, images=len(files))


def _of_containers(kind: Kind, paths: Iterable[Path], root: Path, size: int) -> Iterator[Part]:
    for path in paths:
        name = path.relative_to(root).as_posix()
        count = _rows(path) if kind == "parquet" else _members(path)
        for first in range(0, max(count, 1), size):  # one part at least, to say what is wrong with the file
            last = first + size >= count
            images = min(size, count - first)
            yield Part(number=0, kind=kind, files=(name,), first=first, images=images, last=last)


def _rows(path: Path) -> int:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            return int(file.metadata.num_rows)
    except (ArrowException, OSError) as error:  # the latter for damaged bytes, too
        check_damage(path, error)
        return 0  # the part that reads it says what is wrong


def _members(path: Path) -> int:
    count = 0
    try:
        with tarfile.open(path) as archive:
            for _ in tar_images(archive):
                count += 1
    except (*DAMAGED, OSError) as error:
        check_damage(path, error)  # the part that reads to its end says what is wrong
    return count
