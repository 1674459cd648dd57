"""Golden samples: photographs and the reference's answers to them, by which any client proves that it does the same.

They lie in the bundle's `golden/`: `source-00.png` …, and `images.npy`, `indices.npy`, `decoded.npy`, `margins.npy`.
A bundle that only encodes has nothing decoded; one that only decodes has codes, and what they are decoded to.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrae.runtimes.errors import BundleError

GOLDEN_FOLDER = "golden"
_DTYPES = {"images": np.uint8, "indices": np.int32, "decoded": np.uint8, "margins": np.float32}
_NEEDS = {"encode": ("images", "indices", "margins"), "decode": ("indices", "decoded")}
"""Graph -> the arrays that it is tested by."""


@dataclass(frozen=True, kw_only=True)
class GoldenSamples:
    """B photographs, and what the PyTorch reference made of them in FP32; None where the bundle has no graph for it."""

    sources: tuple[Path, ...]
    """The photographs' files, PNG or JPEG, of any size."""
    photographs: tuple[bytes, ...]
    """What these files held when they were compared with the manifest."""
    images: NDArray[np.uint8] | None
    """The photographs after the preprocessing rule, (B, H, W, 3)."""
    indices: NDArray[np.int32]
    """The reference's indices of `images`, (B, h, w) or (B, levels, h, w); of a bundle that only decodes, any."""
    decoded: NDArray[np.uint8] | None
    """The reference's decoding of `indices`, (B, H, W, 3)."""
    margins: NDArray[np.float32] | None
    """How far the reference's best score lies above the second best, shaped as the indices."""

    def __post_init__(self) -> None:
        count = len(self.indices) if self.images is None else len(self.sources)
        if len(self.photographs) != len(self.sources):
            raise ValueError(f"{len(self.photographs)} photographs for {len(self.sources)} files")
        if self.images is not None:
            _check("images", self.images, (4,), count)
        _check("indices", self.indices, (3, 4), count)
        if self.decoded is not None:
            _check("decoded", self.decoded, (4,) if self.images is None else self.images.shape, count)
        if self.margins is not None:
            _check("margins", self.margins, self.indices.shape, count)


def save_golden(folder: Path, samples: GoldenSamples) -> None:
    """Write the samples into `folder/golden/`, where `folder` is the bundle's."""
    target = folder / GOLDEN_FOLDER
    target.mkdir(parents=True)
    for number, (source, content) in enumerate(zip(samples.sources, samples.photographs, strict=True)):
        (target / f"source-{number:02d}{source.suffix.lower()}").write_bytes(content)
    for name in _DTYPES:
        if (array := getattr(samples, name)) is not None:
            np.save(target / f"{name}.npy", array, allow_pickle=False)


def load_golden(folder: Path, contents: Mapping[str, bytes], graphs: Collection[str]) -> GoldenSamples:
    """The samples of a bundle.

    Args:
        folder: the bundle's.
        contents: path in the bundle -> content, of the files in its `golden/`.
        graphs: those that the bundle has, of `encode` and `decode`: what each is tested by has to be there.

    Raises:
        BundleError: there are none, or they are incomplete, or their dtypes or shapes do not fit together.
    """
    golden = folder / GOLDEN_FOLDER
    sources = sorted(path for path in contents if path.startswith(f"{GOLDEN_FOLDER}/source-"))
    if not sources and ("encode" in graphs or not contents):
        raise BundleError(str(golden), got="no golden samples", expected="source-00.png …", remedy="export it again")
    needed = {name for graph in graphs for name in _NEEDS.get(graph, ())}
    arrays: dict[str, Any] = dict.fromkeys(_DTYPES)
    for name in [name for name in _DTYPES if name in needed]:
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


def _check(name: str, array: NDArray[Any], shape: tuple[int, ...], count: int) -> None:
    """`shape` is the exact shape, or where it has at most two numbers, those of axes that it may have."""
    dtype = np.dtype(_DTYPES[name])
    fits = array.ndim in shape if len(shape) < 3 else array.shape == shape
    fits = fits and array.shape[0] == count and (name != "images" or array.shape[-1] == 3)
    if array.dtype != dtype or not fits:
        wanted = f"{' or '.join(map(str, shape))} axes" if len(shape) < 3 else f"shape {shape}"
        got, expected = f"{array.dtype} {array.shape}", f"{dtype} with {wanted} for {count} photographs"
        raise BundleError(name, got=got, expected=expected, remedy="export it again")
