"""The discriminator of stage 2: tells patches of photographs from patches of reconstructions."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLUR = (1.0, 3.0, 3.0, 1.0)
"""Binomial filter before every second pixel is taken (arXiv 1904.11486)."""
MAX_GRID = 16
"""Side of the largest grid of logits."""
MAX_GROUPS = 32
"""Groups of a GroupNorm, where the channels divide into so many."""
SLOPE = 0.1
"""Of the LeakyReLU below zero."""


class PatchDiscriminator(nn.Module):
    """A PatchGAN with blurred downsampling, as TiTok's code base has it [T].

    A 5×5 convolution; stages of 3×3 convolution, blur-pool, GroupNorm and LeakyReLU, which halve the sides and are as
    wide as `channels` times 1, 2, 4 …; the strongest response within each cell of a grid of at most 16×16; a 1×1 and a
    5×5 convolution to one logit per cell. No normalization crosses images, so a batch's logits are those of its images.
    """

    def __init__(self, channels: int = 128, stages: int = 3) -> None:
        super().__init__()
        widths = [channels, *(channels << stage for stage in range(stages))]
        self.stem = nn.Conv2d(3, channels, 5, padding=2)
        self.stages = nn.Sequential(*(_Stage(*pair) for pair in pairwise(widths)))
        self.mix = nn.Conv2d(widths[-1], widths[-1], 1)
        self.logit = nn.Conv2d(widths[-1], 1, 5, padding=2)

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        """Judge every patch of some images; positive is taken for a photograph.

        Args:
            pixels_B3HW: float, about [-1, 1]; scaled to [0, 1] here, not clamped. Sides of at least 2 to the power of
                `stages` pixels; what is left over by that power is cut off at the lower and right edge.

        Returns:
            Logits (B, 1, h, w); h and w are the image's sides divided by 2 to the power of `stages`, 16 at most.
        """
        x = F.leaky_relu(self.stem((pixels_B3HW + 1) / 2), SLOPE)
        x = self.stages(x)
        height, width = x.shape[-2:]
        x = F.adaptive_max_pool2d(x, (min(height, MAX_GRID), min(width, MAX_GRID)))
        return self.logit(F.leaky_relu(self.mix(x), SLOPE))


class _Stage(nn.Module):
    """Half the side, another width."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.pool = _BlurPool(width_out)
        self.norm = nn.GroupNorm(math.gcd(MAX_GROUPS, width_out), width_out)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/2, W/2)."""
        return F.leaky_relu(self.norm(self.pool(self.convolution(x_BCHW))), SLOPE)


class _BlurPool(nn.Module):
    """Every second pixel of the blurred image; zeros beyond its edges."""

    kernel: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        line = torch.tensor(BLUR) / sum(BLUR)
        kernel = torch.outer(line, line).expand(width, 1, -1, -1).clone()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2)."""
        return F.conv2d(x_BCHW, self.kernel.to(x_BCHW.dtype), stride=2, padding=1, groups=len(self.kernel))
