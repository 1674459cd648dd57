"""From what `--data` says to the images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from PIL import Image

from vqrae.images.files import data_files
from vqrae.images.kinds import Kind
from vqrae.images.report import Unreadable, lines_of
from vqrae.runtimes.errors import DataError, ImageError
from vqrae.training.data.indexed import FolderImages, IndexedImages, ParquetImages
from vqrae.training.data.shuffled import JUDGED
from vqrae.training.data.streamed import StreamedImages, open_hub, open_tars
from vqrae.training.processes import Share

_KINDS: dict[Kind, str] = {"images": "images", "tar": "tars", "parquet": "Parquet files"}
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def open_images(data: str, share: Share = Share()) -> IndexedImages | StreamedImages:  # noqa: B008 - immutable
    """The images to train on.

    Args:
        data: what `data_files` takes, of one kind; or `owner/name`, a dataset of the hub. What exists on this machine
            is never looked for on the hub.
        share: which of the processes that train together this is. Every process numbers the images of folders and
            Parquet files alike; the shards of the others are dealt out.

    Raises:
        DataError: nothing is there, it cannot be reached, is damaged, or holds no images.
        UsageError: there are more processes than shards.
    """
    files = data_files(data)
    if files is None:
        if HUB_NAME.fullmatch(data):
            return open_hub(data, share)
        expected = "a folder, Parquet files, tars, or a dataset of the hub as owner/name"
        raise DataError(data, got="no such file or folder", expected=expected)
    if files.damaged:
        got = "; ".join(lines_of((), files.damaged))
        raise DataError(data, got=got, expected="what can be reached", remedy="mend or remove it")
    if len(files.kinds) > 1:
        got = " and ".join(
            f"{len(files.names[kind])} {_KINDS[kind]} such as {files.names[kind][0]}" for kind in files.kinds
        )
        raise DataError(data, got=got, expected="one kind to train on", remedy="name its folder, or a pattern")
    paths = files.paths(files.kinds[0])
    if files.kinds == ["images"]:
        return FolderImages(data, paths)
    return ParquetImages(data, paths) if files.kinds == ["parquet"] else open_tars(data, paths, share)


def textures(source: IndexedImages | StreamedImages, count: int) -> list[Image.Image]:
    """The first `count` images of a source that can be read, the same in every process.

    Raises:
        DataError: too many of those met cannot be read.
    """
    return list(islice(_indexed(source) if isinstance(source, IndexedImages) else _streamed(source), count))


def _indexed(source: IndexedImages) -> Iterator[Image.Image]:
    opened = (source.open(index) for index in range(len(source)))
    return (image for image in opened if image is not None)


def _streamed(source: StreamedImages) -> Iterator[Image.Image]:
    unreadable = Unreadable(source.name)
    encoded = (image for shard in range(len(source.shards)) for image in source.images(shard))
    for met, image in enumerate(encoded, 1):
        try:
            opened = image.open()
        except ImageError as error:
            unreadable.skip(error, met, least=JUDGED)
        else:
            yield opened
