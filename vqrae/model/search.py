"""Nearest-code search with bounded memory: no tokens × codes matrix beyond a set size is ever held.

Two forms give the same answer. *Chunked*, on any device: the score matrix in pieces, all in one buffer. *Fused*, on
NVIDIA GPUs with Triton: `vqrae.model.fused_search`, which holds no piece of it outside the processor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Literal, NamedTuple

import torch
from torch import Tensor

SCORE_LIMIT_BYTES = 64 * 2**20
"""Size that one chunk of the score matrix may have. 64 MiB: large enough to keep a GEMM busy, small beside a model."""

SLICE = 64
"""Most codes in a slice; see `argmax_by_slices`."""

FUSED_CAPABILITY = (8, 0)
"""Least compute capability that the fused search was compiled for."""

SearchKind = Literal["chunked", "fused"]


def search_kind(device: torch.device, dtype: torch.dtype = torch.float32) -> SearchKind:
    """Which form `nearest_codes` takes on a device.

    Fused: float32 on an NVIDIA GPU of compute capability 8.0 or more, where Triton is installed. Chunked: all else.
    """
    if device.type != "cuda" or dtype != torch.float32 or torch.version.hip is not None:
        return "chunked"
    return "fused" if _fits_fused(device) else "chunked"


@cache
def _fits_fused(device: torch.device) -> bool:
    return find_spec("triton") is not None and torch.cuda.get_device_capability(device) >= FUSED_CAPABILITY


def _scores(features_ME: Tensor, codes_KE: Tensor, limit_bytes: int) -> Iterator[tuple[slice, Tensor]]:
    """Rows and their chunk (m, K) of z·c − ½‖c‖², which orders codes as −‖z − c‖² does, for the features z.

    All chunks lie in one buffer: each is overwritten by the next.
    """
    negative_half_norms_K = -(codes_KE.square().sum(1) / 2)
    total, count = len(features_ME), len(codes_KE)
    rows = min(total, max(1, limit_bytes // (count * codes_KE.element_size())))
    buffer_mK = features_ME.new_empty(rows, count)
    for start in range(0, total, max(1, rows)):
        chosen = slice(start, min(start + rows, total))
        chunk_mK = buffer_mK[: chosen.stop - start]
        yield chosen, torch.addmm(negative_half_norms_K, features_ME[chosen], codes_KE.T, out=chunk_mK)


@torch.no_grad()
def nearest_codes(features_ME: Tensor, codes_KE: Tensor, *, limit_bytes: int = SCORE_LIMIT_BYTES) -> Tensor:
    """Index of the code with the least Euclidean distance to each feature; the lowest index among equals.

    Which form computes it: `search_kind`. Two forms may differ where two codes are equally near up to rounding:
    `disagreement` tells.

    Args:
        features_ME: (M, E) float, projected features.
        codes_KE: (K, E) float, effective codes, same dtype.
        limit_bytes: size of the largest score chunk; the fused search has none.

    Returns:
        int64 (M,).
    """
    if search_kind(features_ME.device, features_ME.dtype) == "fused":
        from vqrae.model.fused_search import fused_nearest_codes  # imports Triton

        return fused_nearest_codes(features_ME, codes_KE)
    return chunked_nearest_codes(features_ME, codes_KE, limit_bytes=limit_bytes)


@torch.no_grad()
def chunked_nearest_codes(features_ME: Tensor, codes_KE: Tensor, *, limit_bytes: int = SCORE_LIMIT_BYTES) -> Tensor:
    """`nearest_codes` in its chunked form, on any device; arguments and result are the same."""
    indices_M = torch.empty(len(features_ME), dtype=torch.int64, device=features_ME.device)
    for rows, chunk_mK in _scores(features_ME, codes_KE, limit_bytes):
        torch.argmax(chunk_mK, 1, out=indices_M[rows])
    return indices_M


@torch.no_grad()
def top2(features_ME: Tensor, codes_KE: Tensor, *, limit_bytes: int = SCORE_LIMIT_BYTES) -> Tensor:
    """Indices of the nearest and the second-nearest code, int64 (M, 2); arguments as for `nearest_codes`."""
    indices_M2 = torch.empty(len(features_ME), 2, dtype=torch.int64, device=features_ME.device)
    for rows, chunk_mK in _scores(features_ME, codes_KE, limit_bytes):
        indices_M2[rows] = chunk_mK.topk(2, dim=1).indices
    return indices_M2


def argmax_by_slices(scores_BNK: Tensor) -> Tensor:
    """The index int64 (B, N) of each token's largest score, the lowest one where several are equal.

    First the slice of codes that holds it, by a maximum, then its place there. OpenVINO turns an argmax into a sort
    that takes longer than the product it follows; a maximum is a pass over memory, and what is left to sort is short.
    """
    width = math.gcd(scores_BNK.shape[-1], SLICE)
    first_BN = scores_BNK.unflatten(-1, (-1, width)).amax(-1).argmax(-1) * width
    codes_BNW = first_BN[..., None] + torch.arange(width, device=scores_BNK.device)
    return first_BN + scores_BNK.gather(-1, codes_BNW).argmax(-1)


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
