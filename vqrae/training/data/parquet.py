"""Images in Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from datasets import Image as ImageFeature
from datasets import load_dataset
from PIL import Image

from vqrae.runtimes.errors import ImageError
from vqrae.runtimes.preprocess import read_image
from vqrae.training.data.indexed import IndexedImages
from vqrae.training.data.loading import column_of, data_errors, quiet


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
        super().__init__(name)
        self.paths = list(paths)
        files = [str(path) for path in paths]
        with quiet(), data_errors(name, "whole Parquet files of the same columns"):
            features = load_dataset("parquet", data_files=files, split="train", streaming=True).features
            self.column = column_of(name, features)
            rows = load_dataset("parquet", data_files=files, split="train", columns=[self.column])
            self._rows = rows.cast_column(self.column, ImageFeature(decode=False))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def contents(self) -> dict[str, int]:
        """Name of each file, without its folder -> bytes."""
        return {path.name: path.stat().st_size for path in self.paths}

    def _read(self, index: int) -> Image.Image:
        row, name = self._rows[index][self.column], f"{self.name} row {index}"
        if row is None or row["bytes"] is None:
            raise ImageError(name, got="no bytes", expected="an encoded image")
        return read_image(name, BytesIO(row["bytes"]))
