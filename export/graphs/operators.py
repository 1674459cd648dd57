"""Pixels to patches and back, and the search for the largest score.

One form serves every runtime. Patches are cut and joined with four axes, because Core ML takes no more than five.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SLICE = 64
"""Most codes in a slice; see `argmax_by_slices`."""


def patches_from_images(images_BHW3: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Images (B, h·p, w·p, 3) -> (B, h·w, p·p·3), each patch row-major in (y, x, channel), in four axes."""
    (h, w), p = grid, patch_size
    rows = images_BHW3.reshape(-1, p, w, p * 3).transpose(1, 2)  # (B·h, w, p, p·3)
    return rows.reshape(-1, h * w, p * p * 3)


def images_from_patches(patches_BNP: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Inverse of `patches_from_images`."""
    (h, w), p = grid, patch_size
    rows = patches_BNP.reshape(-1, w, p, p * 3).transpose(1, 2)  # (B·h, p, w, p·3)
    return rows.reshape(-1, h * p, w * p, 3)


def argmax_by_slices(scores_BNK: Tensor) -> Tensor:
    """The index int64 (B, N) of each token's largest score, the lowest one where several are equal.

    First the slice of codes that holds it, by a maximum, then its place there. OpenVINO turns an argmax into a sort
    that takes longer than the product it follows; a maximum is a pass over memory, and what is left to sort is short.
    """
    width = math.gcd(scores_BNK.shape[-1], SLICE)
    first_BN = scores_BNK.unflatten(-1, (-1, width)).amax(-1).argmax(-1) * width
    codes_BNW = first_BN[..., None] + torch.arange(width, device=scores_BNK.device)
    return first_BN + scores_BNK.gather(-1, codes_BNW).argmax(-1)
