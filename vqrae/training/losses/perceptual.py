"""A perceptual loss that needs no network beside the teacher: how far apart it sees original and reconstruction."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqrae.model.encoder import Encoder
from vqrae.runtimes.errors import UsageError


class TeacherPerceptual(nn.Module):
    """Distance of two images in the hidden states of a frozen encoder.

    Shaped as LPIPS (arXiv 1801.03924) without its learned weights: at each of a few depths, every token's features are
    scaled to length 1; the squared distances between tokens at the same place, which are 2 - 2·cosine and so lie in
    [0, 4], are averaged over tokens and images, and then over depths. It stands in for the paper's LPIPS and ConvNeXt-S
    (`lpips_convnext`), where their weights cannot be had [I].

    The encoder is held, not owned: its weights are in no `parameters()`, `state_dict()` or `to()` of this module, so
    that one which teaches the distillation too is neither saved nor moved twice. Its owner freezes and moves it.
    """

    def __init__(self, teacher: Encoder, levels: int = 4) -> None:
        """Watch `levels` depths, evenly spaced, the last of which is the features; fewer if there are fewer blocks.

        Raises:
            UsageError: `levels` is not positive.
        """
        super().__init__()
        if levels < 1:
            raise UsageError("levels", got=str(levels), expected="a positive number of depths")
        self._held = (teacher,)  # inside a tuple, where nn.Module does not see it
        blocks = teacher.shape.depth
        self.depths = sorted({math.ceil(blocks * level / levels) for level in range(1, levels)} - {blocks})
        """Numbers of the blocks whose output is compared, beside the features."""

    @property
    def teacher(self) -> Encoder:
        """The encoder that was given."""
        return self._held[0]

    def forward(self, decoded_B3HW: Tensor, pixels_B3HW: Tensor) -> Tensor:
        """The loss; its gradient reaches the decoded pixels only.

        Args:
            decoded_B3HW: float, about [-1, 1]; what lies outside is not clamped, so that it is pulled back.
            pixels_B3HW: float in [-1, 1].

        Returns:
            A float32 scalar in [0, 4].

        Raises:
            UsageError: a weight of the teacher is trainable.
        """
        return self.distance(decoded_B3HW, self.targets(pixels_B3HW))

    @torch.no_grad()
    def targets(self, pixels_B3HW: Tensor) -> list[Tensor]:
        """The original's hidden states (B, N, C) at each depth, as the network gives them; last, the features.

        The last one is also the distillation's target, so that who needs both runs the teacher once.
        """
        return self._states(pixels_B3HW)

    def distance(self, decoded_B3HW: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """As `forward`, from the original's `targets`."""
        states = self._states(decoded_B3HW)
        return torch.stack([_distance(*pair) for pair in zip(states, targets, strict=True)]).mean()

    def _states(self, pixels_B3HW: Tensor) -> list[Tensor]:
        teacher = self.teacher
        if any(parameter.requires_grad for parameter in teacher.parameters()):
            remedy = "freeze it or give a frozen copy"
            raise UsageError("teacher", got="trainable weights", expected="a frozen encoder", remedy=remedy)
        teacher.eval()  # whoever owns it may have switched all it owns to training, and with it drop path
        return teacher.hidden_states(pixels_B3HW, self.depths)


def _distance(state_BNC: Tensor, target_BNC: Tensor) -> Tensor:
    """Mean over tokens of the squared distance between directions, float32."""
    unit_BNC, target_unit_BNC = (F.normalize(tokens.float(), dim=-1) for tokens in (state_BNC, target_BNC))
    return (unit_BNC - target_unit_BNC).square().sum(-1).mean()
