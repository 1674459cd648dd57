"""A source whose images are numbered, so that any of them can be opened at any time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vqrae.runtimes.errors import ImageError
from vqrae.runtimes.preprocess import open_image
from vqrae.training.data.unreadable import Unreadable

CACHED_BYTES = 2**28
"""Of decoded photographs: all of a small folder's, and no matter where there are many."""


class IndexedImages(ABC):
    """Images 0 to `len() - 1`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.unreadable = Unreadable(name)
        self._damaged: set[int] = set()
        self._decoded: OrderedDict[int, Image.Image] = OrderedDict()
        self._decoded_bytes = 0

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are, the unreadable ones included."""

    @property
    @abstractmethod
    def contents(self) -> dict[str, int]:
        """What a run writes down to know its data again: name of each file -> bytes."""

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

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        super().__init__(name)
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def contents(self) -> dict[str, int]:
        """Name of each file, without its folder -> bytes."""
        return {path.name: path.stat().st_size for path in self.paths}

    def _read(self, index: int) -> Image.Image:
        return open_image(self.paths[index])
