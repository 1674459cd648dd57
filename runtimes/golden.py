"""Golden samples: photographs and the reference's answers to them, by which any client proves that it does the same.

They lie in the bundle's `golden/`: `source-00.png` …, and `images.npy`, `indices.npy`, `decoded.npy`, `margins.npy`.
"""

from __future__ import annotations

import shutil
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
        _check("images", self.images, 4, count)
        _check("indices", self.indices, 3, count)
        _check("decoded", self.decoded, self.images.shape, count)
        _check("margins", self.margins, self.indices.shape, count)


def save_golden(folder: Path, samples: GoldenSamples) -> None:
    """Write the samples into `folder/golden/`, where `folder` is the bundle's; the photographs are copied."""
    target = folder / GOLDEN_FOLDER
    target.mkdir(parents=True)
    for number, source in enumerate(samples.sources):
        shutil.copyfile(source, target / f"source-{number:02d}{source.suffix.lower()}")
    for name in _DTYPES:
        np.save(target / f"{name}.npy", getattr(samples, name), allow_pickle=False)


def load_golden(folder: Path) -> GoldenSamples:
    """Read the samples from `folder/golden/`, where `folder` is the bundle's.

    Raises:
        BundleError: there are none, or they are incomplete, or their dtypes or shapes do not fit together.
    """
    golden = folder / GOLDEN_FOLDER
    sources = tuple(sorted(golden.glob("source-*")))
    if not sources:
        raise BundleError(str(golden), got="no golden samples", expected="source-00.png …", remedy="export it again")
    arrays: dict[str, Any] = {name: _load_array(golden / f"{name}.npy") for name in _DTYPES}
    try:
        return GoldenSamples(sources=sources, **arrays)
    except BundleError as error:
        error.subject = f"{golden}/{error.subject}.npy"
        raise


def _load_array(path: Path) -> NDArray[Any]:
    try:
        return load_npy(path)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(str(path), got=str(error), expected="an array", remedy="export it again") from error


def load_npy(path: Path) -> NDArray[Any]:
    """Read a `.npy` file that may come from anywhere: no pickle, and no memory beyond what the file really holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file, or its header promises more than it holds.
    """
    return np.array(np.lib.format.open_memmap(path, mode="r"))


def _check(name: str, array: NDArray[Any], shape: int | tuple[int, ...], count: int) -> None:
    """`shape` is the number of axes, or the exact shape."""
    dtype = np.dtype(_DTYPES[name])
    fits = array.ndim == shape if isinstance(shape, int) else array.shape == shape
    fits = fits and array.shape[0] == count and (name != "images" or array.shape[-1] == 3)
    if array.dtype != dtype or not fits:
        wanted = f"{shape} axes" if isinstance(shape, int) else f"shape {shape}"
        got, expected = f"{array.dtype} {array.shape}", f"{dtype} with {wanted} for {count} photographs"
        raise BundleError(name, got=got, expected=expected, remedy="export it again")
