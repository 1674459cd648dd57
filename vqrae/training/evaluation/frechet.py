"""Fréchet distance between the Gaussians of two sets of feature vectors (Dowson and Landau 1982; Heusel et al. 2017).

    d² = ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁^½ Σ₂ Σ₁^½)^½

In Inception's feature space this is FID, and between originals and reconstructions rFID. As there, what is given is d².

Shape suffixes: B images of a chunk, C feature width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vqrae.runtimes.errors import InvalidInput


class Moments:
    """Count, mean and covariance of a stream of vectors, in float64; it holds C², however many there are."""

    def __init__(self) -> None:
        self.count = 0
        self.mean_C: NDArray[np.float64] = np.zeros(1)  # takes the width of the first chunk
        self._scatter_CC: NDArray[np.float64] = np.zeros((1, 1))

    def add(self, vectors_BC: ArrayLike) -> None:
        """Take in a chunk (B, C) of any float dtype, by the pairwise update of Chan, Golub and LeVeque (1983).

        Raises:
            InvalidInput: a value is NaN or infinite.
        """
        vectors = np.asarray(vectors_BC, np.float64)
        mean = vectors.mean(0)
        if not np.isfinite(mean).all():
            raise InvalidInput("features", got="NaN or infinite values", expected="finite ones")
        offset, total = mean - self.mean_C, self.count + len(vectors)
        centered = vectors - mean
        between = np.outer(offset, offset) * (self.count * len(vectors) / total)
        self._scatter_CC = self._scatter_CC + centered.T @ centered + between
        self.mean_C = self.mean_C + offset * (len(vectors) / total)
        self.count = total

    @property
    def width(self) -> int:
        """C."""
        return len(self.mean_C)

    def covariance(self) -> NDArray[np.float64]:
        """Unbiased (C, C); of rank `count` − 1 at most.

        Raises:
            ValueError: there are fewer than two vectors.
        """
        if self.count < 2:
            raise ValueError(f"a covariance of {self.count} vectors")
        return self._scatter_CC / (self.count - 1)


def frechet_distance(first: Moments, second: Moments) -> float:
    """d² of the module's formula, ≥ 0, for covariances of any rank.

    The last trace is the sum of the singular values of Σ₁^½ Σ₂^½. With roots from symmetric eigenvalues it stays real
    and exact where the root of the unsymmetric Σ₁ Σ₂ turns complex: at null directions, which few images always have.

    Raises:
        ValueError: there are fewer than two vectors in a set.
    """
    covariances = first.covariance(), second.covariance()
    roots = [_square_root(covariance) for covariance in covariances]
    overlap = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    offset = first.mean_C - second.mean_C
    # Rounding may leave a little less than nothing between equal sets.
    return float(max(0.0, offset @ offset + sum(np.trace(part) for part in covariances) - 2 * overlap))


def _square_root(covariance_CC: NDArray[np.float64]) -> NDArray[np.float64]:
    """The symmetric root; eigenvalues that are only rounding, below zero too, count as zero."""
    values, vectors = np.linalg.eigh(covariance_CC)
    rounding = len(values) * np.finfo(np.float64).eps * max(values[-1], 0)
    return (vectors * np.sqrt(np.where(values > rounding, values, 0))) @ vectors.T


class FrechetMeter:
    """Originals against reconstructions, chunk by chunk."""

    def __init__(self) -> None:
        self.originals, self.reconstructions = Moments(), Moments()

    def add(self, originals_BC: ArrayLike, reconstructions_BC: ArrayLike) -> None:
        """Take in the features, pooled over each image, of a chunk and of its reconstructions; errors as `Moments`."""
        self.originals.add(originals_BC)
        self.reconstructions.add(reconstructions_BC)

    def distance(self) -> float | None:
        """The distance; None for fewer than two images."""
        return frechet_distance(self.originals, self.reconstructions) if self.originals.count > 1 else None

    def warning(self) -> str | None:
        """What must be said of the distance: nothing where there are more images than dimensions."""
        images, width = self.originals.count, self.originals.width
        if images > width:
            return None
        if images < 2:
            return "a covariance needs two images at least"
        return (
            f"{images} images in {width} dimensions: the covariances are singular and the distance is biased; "
            "compare it only with one on the same images"
        )
