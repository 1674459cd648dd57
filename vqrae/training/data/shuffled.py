"""The images of a stream in random order, epoch after epoch, from a position that can be written down."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vqrae.images.report import Unreadable
from vqrae.runtimes.errors import DataError, ImageError, UsageError
from vqrae.training.data.streamed import EncodedImage, StreamedImages

BLOCK = 1024
"""Images, encoded, that are held in memory and shuffled together: some 100 MB of ImageNet's in each process."""
JUDGED = 1000
"""A stream is judged as if it had at least so many images: two unreadable ones at its very start do not condemn it."""


class Place(NamedTuple):
    """An image of the stream."""

    epoch: int
    shard: int
    """Position of its shard in the process's order of this epoch."""
    image: int
    """Its number within the shard."""


class ShuffledStream:
    """Endless. Each epoch deals all shards to the processes anew, then shuffles a block of images at a time.

    Within an epoch no two processes read the same shard; one with fewer images begins its next epoch earlier.

    Both orders follow from the seed and the place of a block's first image. So a position is that place and how much of
    the block was taken, and to resume costs reading the block again, and the part of its shard that lies before it;
    nothing is decoded for it. `datasets`' own buffer would start empty, with other images in it.
    """

    def __init__(self, source: StreamedImages, seed: int, block: int = BLOCK) -> None:
        self.source, self.seed, self.block = source, seed, block
        self.unreadable = Unreadable(source.name)
        self.read = 0
        """Images that were taken so far, the unreadable ones included."""
        self._go_to(Place(0, 0, 0))

    def take(self) -> tuple[int, Image.Image]:
        """The next image that can be read, and its number among all that were taken.

        Raises:
            DataError: more than `unreadable.TOLERATED` of the images taken cannot be read, or a shard is damaged.
        """
        while True:
            if not self._block:
                self._fill()
            encoded = self._block.popleft()
            self._taken += 1
            self.read += 1
            try:
                return self.read - 1, encoded.open()
            except ImageError as error:
                self.unreadable.skip(error, self.read, once=False, least=JUDGED)

    def state_dict(self) -> dict[str, Any]:
        """The position, and what it is a position in; for JSON. Each process has its own."""
        position = {"place": list(self._place), "taken": self._taken, "read": self.read}
        return {"stream": self._identity(), **position, "unreadable": self.unreadable.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called.

        Raises:
            UsageError: it is another stream's, or another process's.
        """
        if state["stream"] != self._identity():
            remedy = "resume with the data, seed and number of processes that the run began with"
            raise UsageError(self.source.name, got=str(state["stream"]), expected=str(self._identity()), remedy=remedy)
        self._go_to(Place(*state["place"]))
        self.read, self.unreadable.count = state["read"], state["unreadable"]
        if state["taken"]:
            self._fill()
            self._taken = state["taken"]
            for _ in range(self._taken):
                self._block.popleft()

    def _identity(self) -> dict[str, int]:
        share = {"rank": self.source.share.rank, "processes": self.source.share.count}
        return {"shards": len(self.source.shards), **share, "seed": self.seed, "block": self.block}

    def _go_to(self, place: Place) -> None:
        self._place = place
        self._taken = 0
        self._block: deque[EncodedImage] = deque()
        self._epoch = self._images(place)

    def _fill(self) -> None:
        """Read the next block, of the next epoch if this one is over."""
        placed = list(islice(self._epoch, self.block))
        if not placed:
            self._go_to(Place(self._place.epoch + 1, 0, 0))
            placed = list(islice(self._epoch, self.block))
        if not placed:
            raise DataError(self.source.name, got="no images", expected="at least one for each process")
        self._place, self._taken = placed[0][0], 0
        order = np.random.default_rng([self.seed, self.source.share.rank, *self._place, 1]).permutation(len(placed))
        self._block.extend(placed[number][1] for number in order)

    def _images(self, place: Place) -> Iterator[tuple[Place, EncodedImage]]:
        """The rest of an epoch from a place on, shard by shard."""
        shards = np.random.default_rng([self.seed, place.epoch]).permutation(len(self.source.shards))
        mine = shards[self.source.share.rank :: self.source.share.count]
        for position in range(place.shard, len(mine)):
            first = place.image if position == place.shard else 0
            for number, image in enumerate(self.source.images(int(mine[position]), first), first):
                yield Place(place.epoch, position, number), image
