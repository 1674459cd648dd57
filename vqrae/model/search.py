"""Nearest-code search with bounded memory: no tokens × codes matrix beyond a set size is ever held.

Two forms give the same answer. *Chunked*, on any device: the score matrix in pieces, all in one buffer. *Fused*, on
NVIDIA GPUs with Triton: `vqrae.model.fused_search`, which holds no piece of it outside the processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

SCORE_LIMIT_BYTES = 64 * 2**20
"""Size that one chunk of the score matrix may have. 64 MiB: large enough to keep a GEMM busy, small beside a model."""

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
    `vqrae.model.near_ties` tells.

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
