"""Code spaces: how features become codes, what codes mean, and what a wrong one costs. No table is assumed.

A token has one code, or one at each of several levels; a level may depend on the earlier ones, as in residual
quantizers. It is then judged given the earlier codes that were really chosen, so that one wrong code counts once.

Shape suffixes: M tokens of all images, g levels, K codes, E code width, C feature width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

CHUNK_TOKENS = 4096
"""Tokens whose float64 distances are held at a time."""

_Number = TypeVar("_Number", bound=np.generic)

Codes = NDArray[np.integer]
Features = NDArray[np.float32]


class CodeSpace(Protocol):
    """What features, float32 (M, C), and codes, integers (M, g), are to each other."""

    def cost(self, features_MC: Features, codes_Mg: Codes) -> NDArray[np.float64]:
        """What each code leaves of its feature, given the token's earlier codes; never negative, (M, g)."""
        ...

    def best_two(self, features_MC: Features, codes_Mg: Codes) -> NDArray[np.int32]:
        """The best and the second-best code at each level, given the earlier ones of these codes, (M, g, 2)."""
        ...

    def moved(
        self, features_MC: Features, other_MC: Features, first_Mg: Codes, second_Mg: Codes
    ) -> NDArray[np.float64]:
        """Half of what the difference between two codes' costs moves by, where other features are given; (M, g)."""
        ...

    def rounding(self, features_MC: Features) -> float:
        """A bound on what rounding to float32, where codes are compared, can move half such a difference by."""
        ...


def moved_costs(
    space: CodeSpace, features_MC: Features, other_MC: Features, first_Mg: Codes, second_Mg: Codes
) -> NDArray[np.float64]:
    """`CodeSpace.moved` from costs alone, for a space that has no shorter way."""
    before, after = (space.cost(part, first_Mg) - space.cost(part, second_Mg) for part in (features_MC, other_MC))
    return np.abs(after - before) / 2


@dataclass(frozen=True, kw_only=True)
class TableSpace:
    """The nearest row of a table, by Euclidean distance in the space that features are projected to; one level."""

    weight_EC: Features
    bias_E: Features
    codes_KE: Features
    nearest_two: Callable[[Features], NDArray[np.int32]]
    """The nearest and the second-nearest code of features (M, C), (M, 2), found as the reference finds them."""

    def cost(self, features_MC: Features, codes_Mg: Codes) -> NDArray[np.float64]:
        """Squared distance, in float64, of each projected feature to the code chosen for it; (M, 1)."""
        weight, bias = self.weight_EC.astype(np.float64), self.bias_E.astype(np.float64)
        found = np.empty(codes_Mg.shape)
        for rows in _chunks(len(codes_Mg)):
            offsets = features_MC[rows].astype(np.float64) @ weight.T + bias - self.codes_KE[codes_Mg[rows, 0]]
            found[rows, 0] = np.square(offsets).sum(1)
        return found

    def best_two(self, features_MC: Features, codes_Mg: Codes) -> NDArray[np.int32]:
        """See `CodeSpace`."""
        return self.nearest_two(features_MC)[:, None]

    def moved(
        self, features_MC: Features, other_MC: Features, first_Mg: Codes, second_Mg: Codes
    ) -> NDArray[np.float64]:
        """See `CodeSpace`: the features' shift along the line between the codes."""
        weight = self.weight_EC.astype(np.float64)
        found = np.empty(first_Mg.shape)
        for rows in _chunks(len(first_Mg)):
            shift = (other_MC[rows].astype(np.float64) - features_MC[rows]) @ weight.T
            between = self.codes_KE[first_Mg[rows, 0]].astype(np.float64) - self.codes_KE[second_Mg[rows, 0]]
            found[rows, 0] = np.abs((shift * between).sum(1))
        return found

    def rounding(self, features_MC: Features) -> float:
        """See `CodeSpace`.

        Scores are compared in float32 by the reference and the runtimes alike, in different association orders; each
        may be off by a few units in the last place of the largest score.
        """
        projected = np.linalg.norm(features_MC @ self.weight_EC.T + self.bias_E, axis=1).max()
        largest = projected * np.linalg.norm(self.codes_KE, axis=1).max()
        return float(8 * np.finfo(np.float32).eps * largest)


def by_token(indices: Codes) -> Codes:
    """Indices (B, h, w) or (B, g, h, w) -> the codes of each token (B·h·w, g)."""
    return indices.reshape(-1, 1) if indices.ndim == 3 else np.moveaxis(indices, 1, -1).reshape(-1, indices.shape[1])


def as_indices(codes_Mg: NDArray[_Number], shape: tuple[int, ...]) -> NDArray[_Number]:
    """What there is of each code of each token (B·h·w, g), shaped as indices (B, h, w) or (B, g, h, w)."""
    if len(shape) == 3:
        return codes_Mg.reshape(shape)
    batch, levels, *grid = shape
    return np.ascontiguousarray(np.moveaxis(codes_Mg.reshape(batch, *grid, levels), -1, 1))


def with_level(codes_Mg: Codes, level: int, other_Mg: Codes) -> Codes:
    """These codes, but the other ones at one level."""
    changed = codes_Mg.copy()
    changed[:, level] = other_Mg[:, level]
    return changed


def _chunks(count: int) -> Iterator[slice]:
    """Rows of `count`, `CHUNK_TOKENS` at a time."""
    return (slice(start, start + CHUNK_TOKENS) for start in range(0, count, CHUNK_TOKENS))
