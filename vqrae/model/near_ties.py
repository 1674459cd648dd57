"""Where two searches chose differently: near-ties that rounding decides, or a mistake."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Disagreement(NamedTuple):
    """The rows for which two searches chose different codes, and how far apart those codes really are."""

    rows_D: Tensor
    """Rows of the features, int64 (D,), ascending."""
    gaps_D: Tensor
    """|difference of the two scores z·c − ½‖c‖²| in float64 over ‖z‖·‖c‖ + ½‖c‖² with the longer code: float64 (D,).
    Two codes at the same distance have 0."""
    bound: float
    """The largest gap that two correct float32 searches can show."""

    @property
    def explained(self) -> bool:
        """Whether rounding explains every row."""
        return bool((self.gaps_D <= self.bound).all())


def rounding_bound(width: int) -> float:
    """The largest relative gap, as `Disagreement.gaps_D` has it, of two codes that float32 may take for each other.

    A sum of n products in any order is off by at most n·u of the sum of their magnitudes (Higham, Accuracy and
    Stability of Numerical Algorithms, §3.1; u = 2⁻²⁴), and that sum is at most ‖z‖·‖c‖. Two more roundings subtract
    ½‖c‖². A search may prefer a code whose score is lower by the error of both scores.
    """
    return 2 * (width + 2) * 2.0**-24


@torch.no_grad()
def disagreement(features_ME: Tensor, codes_KE: Tensor, first_M: Tensor, second_M: Tensor) -> Disagreement:
    """Compare two searches of the same codes.

    Args:
        features_ME: (M, E) float32, what was searched for.
        codes_KE: (K, E) float32, the codes.
        first_M: (M,) int64, the indices that one search chose.
        second_M: (M,) int64, the other's.
    """
    rows_D = (first_M != second_M).nonzero().flatten()
    z_DE = features_ME[rows_D].double()
    first_DE, second_DE = codes_KE[first_M[rows_D]].double(), codes_KE[second_M[rows_D]].double()
    # (c − c')·(z − (c + c')/2) is the difference of the scores, without the cancellation of subtracting them.
    difference_D = ((first_DE - second_DE) * (z_DE - (first_DE + second_DE) / 2)).sum(1).abs()
    longest_D = torch.maximum(first_DE.norm(dim=1), second_DE.norm(dim=1))
    scale_D = z_DE.norm(dim=1) * longest_D + longest_D.square() / 2
    gaps_D = torch.where(difference_D == 0, 0.0, difference_D / scale_D)
    return Disagreement(rows_D, gaps_D, rounding_bound(features_ME.shape[1]))
