"""Real tars and Parquet files of small images, one gray each, that tell by their gray which one they are."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import datasets
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SHAPE = (20, 14)


def encoded(gray: int) -> bytes:
    """A PNG of one gray."""
    file = io.BytesIO()
    Image.new("RGB", SHAPE, (gray, gray, gray)).save(file, "png")
    return file.getvalue()


def write_tar(path: Path, contents: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_shards(folder: Path, shards: int, each: int) -> Path:
    """`000.tar` and so on, with the grays from 0 on; returns the folder."""
    for shard in range(shards):
        contents: dict[str, bytes] = {}
        for gray in range(shard * each, (shard + 1) * each):
            contents |= {f"{gray:03d}.png": encoded(gray), f"{gray:03d}.txt": b"a caption"}
        write_tar(folder / f"{shard:03d}.tar", contents)
    return folder


def write_parquet(path: Path, images: list[bytes | None]) -> Path:
    """As `datasets` writes it: structs of bytes and path, and the features in the file's metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"label": datasets.Value("int64"), "image": datasets.Image()})
    rows = {"label": list(range(len(images))), "image": [image and {"bytes": image, "path": None} for image in images]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def gray_of(image: Image.Image | NDArray[np.uint8]) -> int:
    return int(np.asarray(image)[0, 0, 0])
