"""Arrays that lie in files: at the paper's scale covariances and rounded weights are gigabytes, and seldom needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Shelf:
    """A folder of arrays. The system keeps in memory what fits there, and reads the rest again."""

    def __init__(self, folder: Path) -> None:
        """`folder` exists, and outlives every array; who made it deletes it."""
        self._folder = folder
        self._count = 0

    def put(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Write an array; the same values, read-only, mapped from the file."""
        path = self._folder / f"{self._count}.npy"
        self._count += 1
        np.save(path, array)
        mapped: NDArray[np.float32] = np.load(path, mmap_mode="r")
        return mapped
