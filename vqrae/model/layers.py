"""What the networks are built of: transformer block, position embeddings, patches, and pixels to bytes and back.

The block is shaped as SigLIP's: pre-norm, tanh-GELU MLP, biases everywhere.

Shape suffixes: B batch, N tokens, C feature width, H heads, D width of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqrae.model.parts import BlockParts, affine_from_linear


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, no mask."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """(B, N, C) float -> (B, N, C) float."""
        q_BHND, k_BHND, v_BHND = (
            layer(x_BNC).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed_BHND = F.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND)
        return self.out(mixed_BHND.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with a tanh-GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """(B, N, C) float -> (B, N, C) float."""
        return self.down(F.gelu(self.up(x_BNC), approximate="tanh"))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_width: int, norm_eps: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=norm_eps)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, mlp_width)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """(B, N, C) float -> (B, N, C) float."""
        x_BNC = x_BNC + self.attention(self.attention_norm(x_BNC))
        return x_BNC + self.mlp(self.mlp_norm(x_BNC))

    def parts(self) -> BlockParts:
        """The block taken apart, for a deployed form."""
        attention = self.attention
        return BlockParts(
            heads=attention.heads,
            attention_norm=self.attention_norm,
            query=affine_from_linear(attention.query),
            key=affine_from_linear(attention.key),
            value=affine_from_linear(attention.value),
            out=affine_from_linear(attention.out),
            mlp_norm=self.mlp_norm,
            up=affine_from_linear(self.mlp.up),
            down=affine_from_linear(self.mlp.down),
            activation=nn.GELU(approximate="tanh"),
        )


def pixels_from_patches(patches_BNP: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """(B, h·w, p·p·3), each patch row-major in (y, x, channel) -> pixels (B, 3, h·p, w·p)."""
    h, w = grid
    patches = patches_BNP.reshape(-1, h, w, patch_size, patch_size, 3)
    return patches.permute(0, 5, 1, 3, 2, 4).reshape(-1, 3, h * patch_size, w * patch_size)


def patches_from_pixels(pixels_B3HW: Tensor, patch_size: int) -> Tensor:
    """Inverse of `pixels_from_patches`: pixels (B, 3, h·p, w·p) -> (B, h·w, p·p·3)."""
    batch, _, height, width = pixels_B3HW.shape
    h, w = height // patch_size, width // patch_size
    tiles = pixels_B3HW.reshape(batch, 3, h, patch_size, w, patch_size)
    return tiles.permute(0, 2, 4, 3, 5, 1).reshape(batch, h * w, 3 * patch_size**2)


def init_weights(module: nn.Module) -> None:
    """Truncated normal (std 0.02) weights and zero biases for every Linear below `module`."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def sincos_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Sines and cosines of both coordinates, float32 (h·w, width): where learned position embeddings start from.

    Neighbors begin alike, which a random start has to learn first. As in MAE (arXiv 2111.06377, appendix A): half of
    the width for each axis, wavelengths from 2π to 10⁴·2π in geometric steps.
    """
    frequencies = 1e4 ** -(torch.arange(width // 4) / (width // 4))
    y, x = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in grid), indexing="ij")
    angles = torch.cat([axis.reshape(-1, 1) * frequencies for axis in (y, x)], dim=1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def resampled_positions(positions_NC: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embeddings of a square token grid (n·n, C), for another grid: (h·w, C); unchanged if it is the same.

    A single one is every token's, and stays as it is. Bicubic, as the encoders' own library does it for an image of
    another size than it was trained with.
    """
    side = math.isqrt(len(positions_NC))
    if side == 1 or grid == (side, side):
        return positions_NC
    square_1Cnn = positions_NC.T.reshape(1, -1, side, side)
    return F.interpolate(square_1Cnn, size=grid, mode="bicubic", align_corners=False)[0].flatten(1).T


def uint8_from_pixels(pixels_B3HW: Tensor) -> Tensor:
    """Pixels (B, 3, H, W) in [-1, 1] -> images uint8 (B, H, W, 3); values outside are clipped, halves go to even."""
    scaled = (pixels_B3HW.float() * 127.5 + 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1)


def pixels_from_uint8(images_BHW3: Tensor) -> Tensor:
    """Images uint8 (B, H, W, 3) -> pixels float32 (B, 3, H, W) in [-1, 1]."""
    return images_BHW3.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
