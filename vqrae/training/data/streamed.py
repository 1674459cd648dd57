"""A source that is read from front to back: tars in the WebDataset format, or a dataset of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import fsspec
from datasets import Image as ImageFeature
from datasets import IterableDataset, load_dataset
from PIL import Image

from vqrae.runtimes.errors import ImageError, UsageError
from vqrae.runtimes.preprocess import read_image
from vqrae.training.data.loading import column_of, data_errors, quiet
from vqrae.training.processes import Share


class EncodedImage(NamedTuple):
    """An image that was read and not decoded."""

    name: str
    """Unique within its source."""
    content: bytes | None
    """What the shard holds; None where it holds a path, or nothing."""
    path: str | None
    """Where it lies on the hub, if it is a file of its own there."""

    def open(self) -> Image.Image:
        """As upright RGB; raises ImageError."""
        if self.content is not None:
            return read_image(self.name, BytesIO(self.content))
        if self.path is None:
            raise ImageError(self.name, got="no bytes", expected="an encoded image")
        with data_errors(self.name, "a file on the hub"), fsspec.open(self.path) as file:
            return read_image(self.name, file)


class StreamedImages:
    """Shards of images, shared out over the processes that train together."""

    def __init__(
        self, name: str, dataset: IterableDataset, share: Share, contents: dict[str, int], shards: Sequence[str] = ()
    ) -> None:
        """Find the images in a dataset; none is read yet.

        Args:
            name: what errors call the source.
            dataset: of `datasets`, streamed.
            share: which process this is.
            contents: what a run writes down to know its data again.
            shards: what errors call each shard; by default it is numbered.

        Raises:
            DataError: there is no column of images.
            UsageError: there are more processes than shards.
        """
        self.name, self.share, self.contents = name, share, contents
        self.column = column_of(name, dataset.features)
        self._dataset = dataset.select_columns([self.column]).cast_column(self.column, ImageFeature(decode=False))
        self.shards = list(shards) or [f"{name} shard {number}" for number in range(dataset.num_shards)]
        if len(self.shards) < share.count:
            got = f"{len(self.shards)} shards for {share.count} processes"
            remedy = "use fewer processes, or write the data in more files"
            raise UsageError(name, got=got, expected="at least one for each", remedy=remedy)

    def images(self, shard: int, first: int = 0) -> Iterator[EncodedImage]:
        """The images of a shard from number `first` on; those before it are read over, not decoded.

        Raises:
            DataError: the shard is damaged, or out of reach.
        """
        label = self.shards[shard]
        rows = self._dataset.shard(num_shards=len(self.shards), index=shard).skip(first)
        with data_errors(label, "a whole shard"):
            for number, row in enumerate(rows, first):
                image = row[self.column] or {"bytes": None, "path": None}
                path = None if image["bytes"] is not None else image["path"]
                yield EncodedImage(f"{label} image {number} ({image['path'] or 'no name'})", image["bytes"], path)


def open_tars(name: str, paths: Sequence[Path], share: Share) -> StreamedImages:
    """Local tars: files that belong together share all of their name but the suffix, and lie next to each other.

    Raises:
        DataError: damaged or empty, or without images, or not of one kind of files.
        UsageError: there are more processes than tars.
    """
    files = [str(path) for path in paths]
    with quiet(), data_errors(name, "whole tars in the WebDataset format"):
        dataset = load_dataset("webdataset", data_files=files, split="train", streaming=True)
    return StreamedImages(name, dataset, share, {path.name: path.stat().st_size for path in paths}, files)


def open_hub(name: str, share: Share) -> StreamedImages:
    """The `train` split of a dataset of the hub, `owner/name`, as it is there today.

    Raises:
        DataError: it does not exist, cannot be reached, or holds no images.
        UsageError: there are more processes than shards.
    """
    expected = "a folder, Parquet files, tars, or a dataset of the hub as owner/name"
    with quiet(), data_errors(name, expected):
        dataset = load_dataset(name, split="train", streaming=True)
    return StreamedImages(name, dataset, share, {name: dataset.num_shards})
