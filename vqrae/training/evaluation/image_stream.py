"""The images that a tokenizer is evaluated on: prepared a chunk at a time, however many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqrae.images.files import image_files
from vqrae.images.report import Unreadable
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
    """A folder's photographs after the preprocessing rule, or random crops of them; each iteration gives the same."""

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int],
        *,
        images: int | None = None,
        crops: int = 0,
        color_jitter: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Find the photographs; none is read yet.

        Args:
            folder: searched with its subfolders.
            size: (H, W) in pixels of the images to give.
            images: how many photographs at most, spread evenly over the folder's order, since folders are often sorted.
            crops: how many square crops to give instead, each a function of `seed` and its number alone.
            color_jitter: strength of color jitter on the crops.
            seed: names the crops.

        Raises:
            DataError: not a folder, or no image in it.
        """
        found = image_files(folder)
        count = min(images or len(found), len(found))
        self.folder, self.size, self.crops, self.seed = folder, size, crops, seed
        self.paths = [found[number * len(found) // count] for number in range(count)]
        self._unreadable = Unreadable(str(folder))
        self.skipped = self._unreadable.reasons
        """Path -> why it could not be read, of those met so far."""
        self._cropped = CroppedPhotographs(self.paths, size[0], color_jitter)

    def __len__(self) -> int:
        """Images to come, the unreadable ones included."""
        return self.crops or len(self.paths)

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
                self._unreadable.skip(error, len(self.paths))
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
        return ((path.stem, partial(prepare, path, *self.size)) for path in self.paths)

    def _crop(self, number: int) -> NDArray[np.uint8]:
        return self._cropped.batch(1, [self.seed, number])[0]
