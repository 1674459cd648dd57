"""Pixels to patches and back.

One form serves every runtime. Patches are cut and joined with four axes, because Core ML takes no more than five.
"""

from __future__ import annotations

from torch import Tensor


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
