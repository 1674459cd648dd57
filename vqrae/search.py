"""Nearest-code search with bounded memory: no tokens × codes matrix beyond a set size is ever held."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

SCORE_LIMIT_BYTES = 64 * 2**20
"""Size that one chunk of the score matrix may have. 64 MiB: large enough to keep a GEMM busy, small beside a model."""


def _scores(features_ME: Tensor, codes_KE: Tensor, limit_bytes: int) -> Iterator[Tensor]:
    """Chunks (m, K) of z·c − ½‖c‖², which orders codes as −‖z − c‖² does, for successive rows z."""
    half_norms_K = codes_KE.square().sum(1) / 2
    rows = max(1, limit_bytes // (codes_KE.shape[0] * codes_KE.element_size()))
    for chunk in features_ME.split(rows):
        yield torch.addmm(-half_norms_K, chunk, codes_KE.T)


@torch.no_grad()
def nearest_codes(features_ME: Tensor, codes_KE: Tensor, *, limit_bytes: int = SCORE_LIMIT_BYTES) -> Tensor:
    """Index of the code with the least Euclidean distance to each feature; the lowest index among equals.

    Args:
        features_ME: (M, E) float, projected features.
        codes_KE: (K, E) float, effective codes, same dtype.
        limit_bytes: size of the largest score chunk.

    Returns:
        int64 (M,).
    """
    return torch.cat([chunk.argmax(1) for chunk in _scores(features_ME, codes_KE, limit_bytes)])


@torch.no_grad()
def top2(features_ME: Tensor, codes_KE: Tensor, *, limit_bytes: int = SCORE_LIMIT_BYTES) -> Tensor:
    """Indices of the nearest and the second-nearest code, int64 (M, 2); arguments as for `nearest_codes`."""
    return torch.cat([chunk.topk(2, dim=1).indices for chunk in _scores(features_ME, codes_KE, limit_bytes)])
