"""The encoded images of a part, one after another; what cannot be read is an image with a problem."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from vqrae.calibration.sources import DAMAGED, IMAGE_COLUMNS
from vqrae.runtimes.errors import storage_error
from vqrae.tokenizing.parts import Part, check_damage, tar_images

ROWS_AT_ONCE = 32


class EncodedImage(NamedTuple):
    """An image that was read and not decoded."""

    key: str
    """Its path below the data set's root; within an archive or a Parquet file, that file's path, `/`, and its name or
    row."""
    content: bytes | None
    problem: str | None = None
    """Why there is no content."""


def encoded_images(root: Path, part: Part) -> Iterator[EncodedImage]:
    """Read a part. A damaged archive or Parquet file ends with one image of the file's name that says so.

    Raises:
        StorageError: the operating system refused to read.
    """
    return {"images": _files, "tar": _tar, "parquet": _parquet}[part.kind](root, part)


def source_sha256(root: Path, part: Part) -> str:
    """The hash of what a part is made of: every image's key and bytes, or why there are none."""
    digest = SourceDigest()
    for encoded in encoded_images(root, part):
        digest.add(encoded)
    return digest.hexdigest


class SourceDigest:
    """`source_sha256`, image by image."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, encoded: EncodedImage) -> str:
        """Add the next image; returns the hash of its bytes."""
        image = hashlib.sha256(encoded.content or b"").hexdigest()
        what = f"{encoded.key}\0{image if encoded.content is not None else encoded.problem}\n"
        self._digest.update(what.encode(errors="surrogatepass"))
        return image

    @property
    def hexdigest(self) -> str:
        """Of the images so far."""
        return self._digest.hexdigest()


def _files(root: Path, part: Part) -> Iterator[EncodedImage]:
    for name in part.files:
        try:
            yield EncodedImage(name, (root / name).read_bytes())
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            yield EncodedImage(name, None, error.strerror)
        except OSError as error:
            raise storage_error(root / name, error) from error


def _tar(root: Path, part: Part) -> Iterator[EncodedImage]:
    name = part.files[0]
    try:
        with tarfile.open(root / name) as archive:
            stop = None if part.last else part.first + part.images
            for member in islice(tar_images(archive), part.first, stop):
                file = archive.extractfile(member)
                yield EncodedImage(f"{name}/{member.name}", file.read() if file else None)
    except (*DAMAGED, OSError) as error:
        check_damage(root / name, error)
        yield EncodedImage(name, None, f"damaged archive, what follows is missing ({error})")


def _parquet(root: Path, part: Part) -> Iterator[EncodedImage]:
    from pyarrow import ArrowException, parquet

    name = part.files[0]
    try:
        with parquet.ParquetFile(root / name) as file:
            column = next((it for it in IMAGE_COLUMNS if it in file.schema_arrow.names), None)
            if column is None:
                got = ", ".join(file.schema_arrow.names)
                yield EncodedImage(name, None, f"the columns {got}, none of {', '.join(IMAGE_COLUMNS)}")
                return
            for row, value in _values(file, column, part.first, part.images):
                content = value.get("bytes") if isinstance(value, dict) else value
                is_image = isinstance(content, bytes)
                yield EncodedImage(f"{name}/{row}", content if is_image else None, None if is_image else "no bytes")
    except (ArrowException, OSError) as error:
        check_damage(root / name, error)
        yield EncodedImage(name, None, f"damaged Parquet file, what follows is missing ({error})")


def _values(file: Any, column: str, first: int, count: int) -> Iterator[tuple[int, Any]]:
    """Rows `first` to `first + count`, a few in memory at a time; only the row groups that hold them are read."""
    start, groups, skipped = 0, [], 0
    for number in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(number).num_rows
        if start + rows <= first:
            skipped = start + rows
        elif start < first + count:
            groups.append(number)
        start += rows
    if not groups:
        return
    row = skipped
    for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=groups, columns=[column]):
        for value in batch.column(0):
            if first <= row < first + count:
                yield row, value.as_py()
            row += 1
