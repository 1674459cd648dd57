"""The symmetric ViT decoder: quantized features to pixels without a convolution (paper §3.3)."""

from __future__ import annotations

from torch import Tensor, nn

from vqrae.model.config import DecoderConfig
from vqrae.model.layers import Block, init_weights, pixels_from_patches, sincos_positions
from vqrae.model.parts import BlockParts


class Decoder(nn.Module):
    """Position embedding, encoder-shaped blocks, LayerNorm, Linear to 3·p² values per token, unpatchify."""

    def __init__(self, config: DecoderConfig, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.patch_size = config.patch_size
        self.position_embedding = nn.Parameter(sincos_positions(grid, config.width))
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_width, config.norm_eps) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.head = nn.Linear(config.width, 3 * config.patch_size**2)
        init_weights(self)

    def forward(self, features_BNC: Tensor) -> Tensor:
        """Quantized features (B, h·w, C) -> pixels (B, 3, H, W), nominally in [-1, 1], not clipped."""
        x_BNC = features_BNC + self.position_embedding
        for block in self.blocks:
            x_BNC = block(x_BNC)
        return pixels_from_patches(self.head(self.norm(x_BNC)), self.grid, self.patch_size)

    def parts(self) -> list[BlockParts]:
        """Its blocks taken apart, for a deployed form."""
        return [block.parts() for block in self.blocks if isinstance(block, Block)]
