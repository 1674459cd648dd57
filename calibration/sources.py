"""Where calibration images come from: a folder, a tar, a Parquet file, or a `.npy` array. Nothing is decoded yet."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from lzma import LZMAError
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vqrae.runtimes.errors import DataError, RuntimeUnavailable
from vqrae.runtimes.image_files import IMAGE_SUFFIXES, image_files
from vqrae.runtimes.preprocess import open_image, read_image

DAMAGED = (tarfile.TarError, EOFError, LZMAError, zlib.error)
"""What reading a damaged archive raises, by its compression."""
IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")
"""Columns of a Parquet file that are looked for, in this order: bytes, or a struct with a field `bytes`, as
`datasets` writes it."""


@dataclass(frozen=True, kw_only=True)
class SourceImage:
    """An image that can be read when it is chosen."""

    name: str
    """Unique within its source."""
    read: Callable[[], Image.Image]
    """Decode it; raises ImageError."""


def source_images(source: Path) -> list[SourceImage]:
    """All images of a source, in an order that only depends on what it holds.

    Args:
        source: a folder with image files, a `.tar` (also compressed) with them, a `.parquet` file with a column of
            encoded images, or a `.npy` array uint8 (B, H, W, 3).

    Raises:
        DataError: there is nothing, none of these, or no image in it.
        RuntimeUnavailable: a Parquet file, and pyarrow is not installed.
    """
    if source.is_dir():
        return [
            SourceImage(name=str(path.relative_to(source)), read=partial(open_image, path))
            for path in image_files(source)
        ]
    if not source.is_file():
        raise DataError(str(source), got="no such file or folder", expected="a folder, a tar, a parquet or a .npy file")
    readers: dict[str, Callable[[Path], list[SourceImage]]] = {".npy": _from_array, ".parquet": _from_parquet}
    found = readers.get(source.suffix.lower(), _from_tar)(source)
    if not found:
        raise DataError(str(source), got="no images", expected="at least one")
    return found


def _from_array(path: Path) -> list[SourceImage]:
    expected = "uint8 (B, H, W, 3)"
    try:
        images = np.lib.format.open_memmap(path, mode="r")  # `np.load` would take a zip for an archive of arrays
    except (ValueError, EOFError) as error:
        raise DataError(str(path), got=str(error), expected=f"a .npy file, {expected}") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise DataError(str(path), got=f"{images.dtype} {images.shape}", expected=expected)

    def read(number: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(images[number]))

    return [SourceImage(name=str(number), read=partial(read, number)) for number in range(len(images))]


def _from_tar(path: Path) -> list[SourceImage]:
    """Regular files with an image's suffix; the archive is read again for each, and nothing is unpacked."""
    try:
        with tarfile.open(path) as archive:
            names = sorted(member.name for member in archive if member.isfile() and _is_image(member.name))
    except DAMAGED as error:
        expected = "a folder, a tar, a parquet or a .npy file"
        raise DataError(str(path), got=f"no archive ({error})", expected=expected) from error

    def read(name: str) -> Image.Image:
        try:
            with tarfile.open(path) as archive:
                file = archive.extractfile(name)
                assert file is not None, "it is a regular file"  # noqa: S101
                return read_image(f"{path}:{name}", file)
        except DAMAGED as error:
            raise DataError(f"{path}:{name}", got=f"damaged data ({error})", expected="a whole archive") from error

    return [SourceImage(name=name, read=partial(read, name)) for name in dict.fromkeys(names)]


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def _from_parquet(path: Path) -> list[SourceImage]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise RuntimeUnavailable(
            f"{path} needs pyarrow", got=str(error), remedy="Install it with `pip install 'vqrae[parquet]'`"
        ) from error
    try:
        table = parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:  # the latter for damaged bytes, too
        raise DataError(str(path), got=str(error), expected="a whole Parquet file") from error
    names = table.schema_arrow.names
    column = next((name for name in IMAGE_COLUMNS if name in names), None)
    if column is None:
        raise DataError(str(path), got=f"the columns {', '.join(names)}", expected=f"one of {', '.join(IMAGE_COLUMNS)}")
    places = [
        (group, row) for group in range(table.num_row_groups) for row in range(table.metadata.row_group(group).num_rows)
    ]

    def read(number: int) -> Image.Image:
        group, row = places[number]
        try:
            value = table.read_row_group(group, columns=[column]).column(0)[row].as_py()
        except (ArrowException, OSError) as error:
            raise DataError(f"{path} row {number}", got=str(error), expected="a whole Parquet file") from error
        return read_image(f"{path} row {number}", BytesIO(_encoded(path, column, value)))

    return [SourceImage(name=str(number), read=partial(read, number)) for number in range(len(places))]


def _encoded(path: Path, column: str, value: Any) -> bytes:
    encoded = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(encoded, bytes):
        expected = "encoded images: bytes, or a struct with a field `bytes`"
        raise DataError(f"{path} column {column}", got=type(encoded).__name__, expected=expected)
    return encoded
