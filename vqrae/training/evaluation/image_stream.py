"""The images that a tokenizer is evaluated on: prepared a chunk at a time, however many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqrae.images.numbered import source_images
from vqrae.images.report import Unreadable, lines_of
from vqrae.runtimes.errors import ImageError
from vqrae.runtimes.preprocess import prepare
from vqrae.training.data.crops import CroppedPhotographs

CHUNK_IMAGES = 32


class Chunk(NamedTuple):
    """Some images and what they are called."""

    names: tuple[str, ...]
    images: NDArray[np.uint8]
    """(B, H, W, 3), `CHUNK_IMAGES` at most."""


class ImageStream:
    """A source's images after the preprocessing rule, or random crops of them; each iteration gives the same."""

    def __init__(
        self,
        source: Path,
        size: tuple[int, int],
        *,
        images: int | None = None,
        crops: int = 0,
        color_jitter: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Find the images; none is read yet.

        Args:
            source: as `numbered.source_images` takes it.
            size: (H, W) in pixels of the images to give.
            images: how many at most, spread evenly over the source's order, since sources are often sorted.
            crops: how many square crops to give instead, each a function of `seed` and its number alone.
            color_jitter: strength of color jitter on the crops.
            seed: names the crops.

        Raises:
            DataError: there is no image.
            RuntimeUnavailable: a Parquet file, and pyarrow is not installed.
        """
        self._images = source_images(source)
        found = len(self._images)
        count = min(images or found, found)
        self._numbers = [number * found // count for number in range(count)]
        self.size, self.crops, self.seed = size, crops, seed
        self.notes = lines_of(self._images.left_out, self._images.damaged)
        """What of the source is not read."""
        self._unreadable = Unreadable(str(source))
        self.skipped = self._unreadable.reasons
        """Path -> why it could not be read, of those met so far."""
        self._cropped = CroppedPhotographs(count, self._read, size[0], color_jitter)

    def __len__(self) -> int:
        """Images to come, the unreadable ones included."""
        return self.crops or len(self._numbers)

    def __iter__(self) -> Iterator[Chunk]:
        """Give the images.

        Raises:
            DataError: more than `unreadable.TOLERATED` of the photographs cannot be read.
        """
        names: list[str] = []
        images: list[NDArray[np.uint8]] = []
        for name, read in self._sources():
            try:
                images.append(read())
            except ImageError as error:
                self._unreadable.skip(error, len(self._numbers))
                continue
            names.append(name)
            if len(images) == CHUNK_IMAGES:
                yield Chunk(tuple(names), np.stack(images))
                names, images = [], []
        if images:
            yield Chunk(tuple(names), np.stack(images))

    def _sources(self) -> Iterator[tuple[str, Callable[[], NDArray[np.uint8]]]]:
        if self.crops:
            return ((f"crop {number}", partial(self._crop, number)) for number in range(self.crops))
        numbers = range(len(self._numbers))
        return ((self._name(number), partial(self._prepared, number)) for number in numbers)

    def _name(self, number: int) -> str:
        return PurePosixPath(self._images.name(self._numbers[number])).stem

    def _read(self, number: int) -> Image.Image:
        return self._images.read(self._numbers[number])

    def _prepared(self, number: int) -> NDArray[np.uint8]:
        return prepare(self._read(number), *self.size)

    def _crop(self, number: int) -> NDArray[np.uint8]:
        return self._cropped.batch(1, [self.seed, number])[0]
