"""Images by number, of whatever holds images or of a `.npy` array; none is decoded before it is asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqrae.images.kinds import kind_of
from vqrae.images.parts import Part, Source, source_of
from vqrae.images.reading import encoded_image, name_of
from vqrae.images.report import Damaged, LeftOut, note_aside
from vqrae.runtimes.errors import DataError, ImageError
from vqrae.runtimes.preprocess import read_image

_PART_IMAGES = 1024


class Images(Protocol):
    """Numbered images, in an order that only depends on what their source holds."""

    left_out: tuple[LeftOut, ...]
    """What of the source is not read."""
    damaged: tuple[Damaged, ...]
    """What of it cannot be read, as far as it shows before images are decoded."""

    def __len__(self) -> int:
        """How many there are."""

    def name(self, number: int) -> str:
        """What one is called, unique within the source."""

    def read(self, number: int) -> Image.Image:
        """Decode one; raises ImageError."""


def source_images(source: Path) -> Images:
    """All images of a source.

    Args:
        source: see `files.data_files`; or a `.npy` array uint8 (B, H, W, 3).

    Raises:
        DataError: there is nothing, none of these, or no image in it.
        RuntimeUnavailable: a Parquet file, and pyarrow is not installed.
        StorageError: the operating system refused to read.
    """
    if source.suffix.lower() == ".npy" and source.is_file():
        return _ArrayImages(source)
    return _EncodedImages(source_of(source, size=_PART_IMAGES))


def each_image(paths: Iterable[Path], note: Callable[[str], None]) -> Iterator[tuple[str, Path | Image.Image]]:
    """Images and what they are called: files as they are, and all that folders, tars and Parquet files hold.

    Args:
        paths: of any of these.
        note: told what of a folder or a container is left out, counted and named.

    Raises:
        DataError: a folder or a container holds no image.
        ImageError: an image in a container, or below a folder, cannot be read.
        RuntimeUnavailable, StorageError: see `source_images`.
    """
    for path in paths:
        if not path.is_dir() and kind_of(path.name) not in ("tar", "parquet"):
            yield path.stem, path
            continue
        held = source_images(path)
        note_aside(str(path), held, note)
        for number in range(len(held)):
            yield PurePosixPath(held.name(number)).stem, held.read(number)


class _EncodedImages:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._ends = list(accumulate(part.images for part in source.parts))
        self.left_out, self.damaged = source.left_out, source.damaged

    def __len__(self) -> int:
        return self._source.images

    def name(self, number: int) -> str:
        return name_of(*self._place(number))

    def read(self, number: int) -> Image.Image:
        part, index = self._place(number)
        encoded = encoded_image(self._source.root, part, index)
        name = str(self._source.root / encoded.key)
        if encoded.content is None:
            raise ImageError(name, got=encoded.problem, expected="an encoded image")
        return read_image(name, BytesIO(encoded.content))

    def _place(self, number: int) -> tuple[Part, int]:
        """The part, and the number within it."""
        at = bisect_right(self._ends, number)
        part = self._source.parts[at]
        return part, number - (self._ends[at] - part.images)


class _ArrayImages:
    left_out: tuple[LeftOut, ...] = ()
    damaged: tuple[Damaged, ...] = ()

    def __init__(self, path: Path) -> None:
        self._images = _mapped(path)

    def __len__(self) -> int:
        return len(self._images)

    def name(self, number: int) -> str:
        return str(number)

    def read(self, number: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(self._images[number]))


def _mapped(path: Path) -> NDArray[np.uint8]:
    expected = "uint8 (B, H, W, 3)"
    try:
        images = np.lib.format.open_memmap(path, mode="r")  # `np.load` would take a zip for an archive of arrays
    except Exception as error:  # whatever a damaged header makes NumPy raise: there is no list
        raise DataError(str(path), got=str(error), expected=f"a .npy file, {expected}") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise DataError(str(path), got=f"{images.dtype} {images.shape}", expected=expected)
    if not images.size:
        raise DataError(str(path), got="no images", expected="at least one")
    return images
