"""The pretrained vision encoder: continuous features for understanding, and the quantizer's input (paper §3.1).

The features are the network's last hidden state after its own final norm, patch tokens only: the tensor that a
multimodal language model consumes. The paper does not name the layer; this is our reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vqrae.model.config import EncoderConfig
from vqrae.model.encoders import Shape, encoder_family
from vqrae.model.layers import resampled_positions
from vqrae.model.parts import EncoderParts
from vqrae.model.pretrained import read_pretrained


class Encoder(nn.Module):
    """A vision network of any family behind one signature."""

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, config: EncoderConfig, network: nn.Module | None = None) -> None:
        """Build with random weights, or around a network that was loaded already."""
        super().__init__()
        self.config = config
        self.family = encoder_family(config.family)
        self.network: Any = network or self.family.build(self.family.checked(config.network))
        self.unfreeze()
        self.register_buffer("image_mean", torch.tensor(config.image_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(config.image_std).view(3, 1, 1), persistent=False)

    @property
    def prefix_tokens(self) -> int:
        """Class tokens in front of the patch tokens, which the features leave out."""
        return self.family.prefix_tokens

    @property
    def shape(self) -> Shape:
        """The network's sizes."""
        return self.family.shape(self.network)

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [-1, 1] -> features (B, h·w, C).

        For another size than the network's own, its position embeddings are interpolated, as its library does it.
        """
        return self.hidden_states(pixels_B3HW, ())[0]

    def hidden_states(self, pixels_B3HW: Tensor, depths: Sequence[int]) -> list[Tensor]:
        """What some blocks put out, and after it the features.

        Args:
            pixels_B3HW: as for `forward`.
            depths: numbers of blocks, from 1 for the first; a block's output is taken as it leaves the block, without a
                norm, patch tokens only.

        Returns:
            One tensor (B, h·w, C) for each of `depths`, in that order, and last what `forward` returns.
        """
        normalized = ((pixels_B3HW + 1) / 2 - self.image_mean) / self.image_std
        states = self.family.hidden_states(self.network, normalized, depths)
        return [state[:, self.prefix_tokens :] for state in states]

    def unfreeze(self) -> None:
        """Let every weight learn but the mask token: only masked pre-training uses it, so no gradient reaches it."""
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(not name.endswith("mask_token"))

    @torch.no_grad()
    def set_positions(self, positions_NC: Tensor) -> None:
        """Start the position embeddings of the patch tokens from these, where the network learns any."""
        learned = self.family.positions(self.network)
        if learned is not None:
            learned.copy_(positions_NC)

    def parts(self, grid: tuple[int, int]) -> EncoderParts:
        """The network taken apart for a deployed form, its position embeddings resampled to a token grid (h, w)."""
        parts = self.family.parts(self.network)
        return replace(parts, positions_NC=resampled_positions(parts.positions_NC, grid))

    def save_network(self, folder: Path) -> None:
        """Write the network as a checkpoint that `from_pretrained` reads back, into a folder that exists."""
        self.family.save(self.network, folder)

    @classmethod
    def from_pretrained(cls, source: str) -> Encoder:
        """Load a Hugging Face checkpoint: a hub name or a local folder; SigLIP/SigLIP2, DINOv2, InternViT or InternVL.

        Raises:
            CheckpointError: the checkpoint is of another kind, cannot be read, or lacks weights of the vision network.
        """
        return cls(*read_pretrained(source))
