"""Golden samples: photographs and the reference's answers to them, by which any client proves that it does the same.

They lie in the bundle's `golden/`: `source-00.png` …, and `images.npy`, `indices.npy`, `decoded.npy`, `margins.npy`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrae.runtimes.errors import BundleError

GOLDEN_FOLDER = "golden"
_DTYPES = {"images": np.uint8, "indices": np.int32, "decoded": np.uint8, "margins": np.float32}


@dataclass(frozen=True, kw_only=True)
class GoldenSamples:
    """B photographs, and what the PyTorch reference made of them in FP32."""

    sources: tuple[Path, ...]
    """The photographs' files, PNG or JPEG, of any size."""
    photographs: tuple[bytes, ...]
    """What these files held when they were compared with the manifest."""
    images: NDArray[np.uint8]
    """The photographs after the preprocessing rule, (B, H, W, 3)."""
    indices: NDArray[np.int32]
    """The reference's indices of `images`, (B, h, w)."""
    decoded: NDArray[np.uint8]
    """The reference's decoding of `indices`, (B, H, W, 3)."""
    margins: NDArray[np.float32]
    """How far the reference's best score lies above the second best, (B, h, w)."""

    def __post_init__(self) -> None:
        count = len(self.sources)
        if len(self.photographs) != count:
            raise ValueError(f"{len(self.photographs)} photographs for {count} files")
        _check("images", self.images, 4, count)
        _check("indices", self.indices, 3, count)
        _check("decoded", self.decoded, self.images.shape, count)
        _check("margins", self.margins, self.indices.shape, count)


def save_golden(folder: Path, samples: GoldenSamples) -> None:
    """Write the samples into `folder/golden/`, where `folder` is the bundle's."""
    target = folder / GOLDEN_FOLDER
    target.mkdir(parents=True)
    for number, (source, content) in enumerate(zip(samples.sources, samples.photographs, strict=True)):
        (target / f"source-{number:02d}{source.suffix.lower()}").write_bytes(content)
    for name in _DTYPES:
        np.save(target / f"{name}.npy", getattr(samples, name), allow_pickle=False)


def load_golden(folder: Path, contents: Mapping[str, bytes]) -> GoldenSamples:
    """The samples of a bundle.

    Args:
        folder: the bundle's.
        contents: path in the bundle -> content, of the files in its `golden/`.

    Raises:
        BundleError: there are none, or they are incomplete, or their dtypes or shapes do not fit together.
    """
    golden = folder / GOLDEN_FOLDER
    sources = sorted(path for path in contents if path.startswith(f"{GOLDEN_FOLDER}/source-"))
    if not sources:
        raise BundleError(str(golden), got="no golden samples", expected="source-00.png …", remedy="export it again")
    arrays: dict[str, Any] = {}
    for name in _DTYPES:
        try:
            arrays[name] = npy_from_bytes(contents[f"{GOLDEN_FOLDER}/{name}.npy"])
        except (KeyError, ValueError) as error:
            got = "no such file" if isinstance(error, KeyError) else str(error)
            subject = f"{golden}/{name}.npy"
            raise BundleError(subject, got=got, expected="an array", remedy="export it again") from error
    try:
        photographs = tuple(contents[path] for path in sources)
        return GoldenSamples(sources=tuple(folder / path for path in sources), photographs=photographs, **arrays)
    except BundleError as error:
        error.subject = f"{golden}/{error.subject}.npy"
        raise


def load_npy(path: Path) -> NDArray[Any]:
    """Read a `.npy` file that may come from anywhere.

    Raises:
        OSError: it cannot be read.
        ValueError: as for `npy_from_bytes`.
    """
    return npy_from_bytes(path.read_bytes())


def npy_from_bytes(content: bytes) -> NDArray[Any]:
    """The array of a `.npy` file: no pickle, and no memory beyond what the file really holds.

    Raises:
        ValueError: it is no such file, or its header promises more than it holds.
    """
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the format")
    shape, fortran_order, dtype = _HEADERS[version](file)
    count, held = math.prod(shape), len(content) - file.tell()
    if dtype.hasobject or min(shape, default=0) < 0 or count * dtype.itemsize > held:
        raise ValueError(f"a header of {dtype} {shape}, with {held} bytes behind it")
    if not count:
        return np.zeros(shape, dtype)
    array = np.frombuffer(content, dtype, count, offset=file.tell())
    return array.reshape(shape, order="F" if fortran_order else "C").copy()


_HEADERS: dict[tuple[int, int], Callable[[io.BytesIO], Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _check(name: str, array: NDArray[Any], shape: int | tuple[int, ...], count: int) -> None:
    """`shape` is the number of axes, or the exact shape."""
    dtype = np.dtype(_DTYPES[name])
    fits = array.ndim == shape if isinstance(shape, int) else array.shape == shape
    fits = fits and array.shape[0] == count and (name != "images" or array.shape[-1] == 3)
    if array.dtype != dtype or not fits:
        wanted = f"{shape} axes" if isinstance(shape, int) else f"shape {shape}"
        got, expected = f"{array.dtype} {array.shape}", f"{dtype} with {wanted} for {count} photographs"
        raise BundleError(name, got=got, expected=expected, remedy="export it again")
