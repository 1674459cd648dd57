"""Files of tokens: Parquet, or tars in the WebDataset format. Equal tokens give equal bytes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqrae.runtimes.errors import DataError

Layout = Literal["parquet", "webdataset"]
SUFFIXES: dict[str, str] = {"parquet": ".parquet", "webdataset": ".tar"}


class Tokens(NamedTuple):
    """The tokens of some images."""

    keys: list[str]
    image_sha256: list[str]
    """Of each image's encoded bytes."""
    indices: NDArray[np.uint16]
    """(B, h, w)."""


def write_tokens(path: Path, tokens: Tokens, *, layout: Layout, bundle_sha256: str) -> None:
    """Write a file; `bundle_sha256` says what made the tokens."""
    writer = {"parquet": _write_parquet, "webdataset": _write_tar}[layout]
    writer(path, tokens, bundle_sha256)


def read_tokens(path: Path, grid: tuple[int, int]) -> Tokens:
    """Read a file of either layout.

    Raises:
        DataError: it is damaged, or holds something else.
    """
    try:
        return _read_parquet(path, grid) if path.suffix == SUFFIXES["parquet"] else _read_tar(path, grid)
    except Exception as error:  # whatever a damaged file makes pyarrow and NumPy raise: there is no list
        raise DataError(str(path), got=str(error), expected="a whole file of tokens") from error


def _write_parquet(path: Path, tokens: Tokens, bundle_sha256: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    count, h, w = tokens.indices.shape
    table = pa.table(
        {
            "key": pa.array(tokens.keys, pa.string()),
            "indices": pa.FixedSizeListArray.from_arrays(pa.array(tokens.indices.ravel(), pa.uint16()), h * w),
            "image_sha256": pa.array(tokens.image_sha256, pa.string()),
            "bundle_sha256": pa.array([bundle_sha256] * count, pa.string()),
        },
        metadata={"grid": json.dumps([h, w])},
    )
    parquet.write_table(table, path, compression="zstd")


def _read_parquet(path: Path, grid: tuple[int, int]) -> Tokens:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:  # not `read_table`, which would find columns in the path
        table = file.read()
    flat = table.column("indices").combine_chunks().flatten().to_numpy()
    indices = np.asarray(flat, np.uint16).reshape(len(table), *grid)
    return Tokens(table.column("key").to_pylist(), table.column("image_sha256").to_pylist(), indices)


def _write_tar(path: Path, tokens: Tokens, bundle_sha256: str) -> None:
    """Members `000012.npy`, uint16 (h, w), and `000012.json`; a key of WebDataset ends at its first dot."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, (key, digest, grid) in enumerate(zip(*tokens, strict=True)):
            about = {"key": key, "image_sha256": digest, "bundle_sha256": bundle_sha256}
            add_member(archive, f"{number:06d}.npy", _npy(grid))
            add_member(archive, f"{number:06d}.json", json.dumps(about, ensure_ascii=False).encode())


def _read_tar(path: Path, grid: tuple[int, int]) -> Tokens:
    keys: list[str] = []
    digests: list[str] = []
    indices: list[NDArray[Any]] = []
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            content = file.read() if file else b""
            if member.name.endswith(".json"):
                about = json.loads(content)
                keys.append(str(about["key"]))
                digests.append(str(about["image_sha256"]))
            else:
                indices.append(np.load(io.BytesIO(content), allow_pickle=False))
    if len(keys) != len(indices):
        raise ValueError(f"{len(keys)} keys for {len(indices)} grids")
    return Tokens(keys, digests, np.asarray(indices, np.uint16).reshape(len(keys), *grid))


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a file to an archive that is being written."""
    info = tarfile.TarInfo(name)  # no time, no owner: equal contents are equal bytes
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def joined(parts: Sequence[NDArray[Any]], grid: tuple[int, int]) -> NDArray[np.uint16]:
    """Batches of indices as one array, uint16 (B, h, w), also where there is none."""
    return np.concatenate([np.zeros((0, *grid), np.uint16), *(part.astype(np.uint16) for part in parts)])
