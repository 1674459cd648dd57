"""Where a language model's embeddings of codes begin: at the codes' own vectors."""

from __future__ import annotations

import torch
from torch import Tensor


def code_embeddings(codes_KE: Tensor, width: int, deviation: float, seed: int) -> Tensor:
    """Vectors float32 (K, width) that lie to each other as the codes do, turned at random.

    Codes that decode alike are then read alike before anything was learned about them, which with thousands of codes is
    most of what a small model has to learn. Where the width is less than the codes', their main directions are kept.

    Args:
        codes_KE: the effective codes.
        width: of the language model.
        deviation: standard deviation of the numbers, as that of its other embeddings.
        seed: names the turn.
    """
    centered = codes_KE.float() - codes_KE.float().mean(0)
    left_KR, scales_R, _ = torch.linalg.svd(centered, full_matrices=False)
    kept = min(width, len(scales_R))
    vectors = centered.new_zeros(len(centered), width)
    vectors[:, :kept] = left_KR[:, :kept] * scales_R[:kept]
    turn, _ = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)))
    turned = vectors @ turn
    return turned * (deviation / turned.std())
