"""A source whose images are numbered, so that any of them can be opened at any time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from datasets import Image as ImageFeature
from datasets import load_dataset
from PIL import Image

from vqrae.images.report import Unreadable
from vqrae.runtimes.errors import ImageError
from vqrae.runtimes.preprocess import open_image, read_image
from vqrae.training.data.loading import column_of, data_errors, quiet

CACHED_BYTES = 2**28
"""Of decoded photographs: all of a small folder's, and no matter where there are many."""


class IndexedImages(ABC):
    """Images 0 to `len() - 1`."""

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        """Of these files; `name` is what errors call the source."""
        self.name, self.paths = name, list(paths)
        self.unreadable = Unreadable(name)
        self._damaged: set[int] = set()
        self._decoded: OrderedDict[int, Image.Image] = OrderedDict()
        self._decoded_bytes = 0

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are, the unreadable ones included."""

    @property
    def contents(self) -> dict[str, int]:
        """What a run writes down to know its data again: name of each file, without its folder -> bytes."""
        return {path.name: path.stat().st_size for path in self.paths}

    @abstractmethod
    def _read(self, index: int) -> Image.Image:
        """Decode an image; raises ImageError."""

    def open(self, index: int) -> Image.Image | None:
        """An image as upright RGB, or None if it cannot be read, which `unreadable` then knows; it is not tried again.

        Raises:
            DataError: more than `unreadable.TOLERATED` of all images cannot be read. Each process counts what it met.
            StorageError: the operating system refuses to open the file.
        """
        if index in self._decoded:
            self._decoded.move_to_end(index)
            return self._decoded[index]
        if index in self._damaged:
            return None
        try:
            image = self._read(index)
        except ImageError as error:
            self._damaged.add(index)
            self.unreadable.skip(error, len(self))
            return None
        self._keep(index, image)
        return image

    def _keep(self, index: int, image: Image.Image) -> None:
        """Remember a decoded image, and forget those that were not asked for the longest."""
        self._decoded[index] = image
        self._decoded_bytes += 3 * image.width * image.height
        while self._decoded_bytes > CACHED_BYTES:
            _, oldest = self._decoded.popitem(last=False)
            self._decoded_bytes -= 3 * oldest.width * oldest.height


class FolderImages(IndexedImages):
    """Image files."""

    def __len__(self) -> int:
        return len(self.paths)

    def _read(self, index: int) -> Image.Image:
        return open_image(self.paths[index])


class ParquetImages(IndexedImages):
    """Rows of Parquet files, in the files' order.

    Parquet is compressed in groups of rows, so one row alone cannot be had cheaply. `datasets` therefore copies the
    image column once into Arrow files, as large as the images, in its cache (`HF_DATASETS_CACHE`), and maps them into
    memory: nothing of them is loaded but the rows that are read, and later runs and the other processes find them
    there. Who lacks that disk space trains on tars, which are streamed.
    """

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        """Copy the files into the cache, unless they are there unchanged.

        Raises:
            DataError: damaged files, or no column of images in them.
            StorageError: the cache's disk is full.
        """
        super().__init__(name, paths)
        files = [str(path) for path in paths]
        with quiet(), data_errors(name, "whole Parquet files of the same columns"):
            features = load_dataset("parquet", data_files=files, split="train", streaming=True).features
            self.column = column_of(name, features)
            rows = load_dataset("parquet", data_files=files, split="train", columns=[self.column])
            self._rows = rows.cast_column(self.column, ImageFeature(decode=False))

    def __len__(self) -> int:
        return len(self._rows)

    def _read(self, index: int) -> Image.Image:
        row, name = self._rows[index][self.column], f"{self.name} row {index}"
        if row is None or row["bytes"] is None:
            raise ImageError(name, got="no bytes", expected="an encoded image")
        return read_image(name, BytesIO(row["bytes"]))
