"""The adversarial loss: discriminator, hinge terms, LeCam regularization, as in TiTok's code base [T] (paper §3.4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

Mean = Callable[[Tensor], Tensor]
"""A process's scalar -> its mean over all processes, the same on each."""
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


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator: ½·(mean(max(0, 1 - real)) + mean(max(0, 1 + fake))).

    Args:
        real: logits of originals, any shape.
        fake: logits of reconstructions, any shape.

    Returns:
        A float32 scalar; 0 where all real logits are at least 1 and all fake ones at most -1.
    """
    return (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()) / 2


def generator_loss(fake: Tensor) -> Tensor:
    """What the tokenizer minimizes: minus the mean logit of its reconstructions, a float32 scalar."""
    return -fake.float().mean()


def _own(value: Tensor) -> Tensor:
    """The mean over the one process that there is."""
    return value


class LeCam(nn.Module):
    """Holds the discriminator's mean logits near where they were (Tseng et al. 2021, arXiv 2104.03310).

    The anchors are exponential moving averages of the mean logit of originals and of reconstructions, from 0. They are
    buffers, so that a saved state has them.
    """

    real: Tensor
    fake: Tensor

    def __init__(self, decay: float = 0.999, mean: Mean = _own) -> None:
        """Make the anchors.

        Args:
            decay: of the moving averages, per update [T].
            mean: takes a mean logit over the processes before it moves an anchor; the identity where there is one.
        """
        super().__init__()
        self.decay = decay
        self.mean = mean
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """max(0, mean(real) - fake anchor)² + max(0, real anchor - mean(fake))², not yet weighted.

        Args:
            real: logits of originals, any shape.
            fake: logits of reconstructions, any shape.

        Returns:
            A float32 scalar; no gradient reaches the anchors, nor do they move.
        """
        above = F.relu(real.float().mean() - self.fake)
        below = F.relu(self.real - fake.float().mean())
        return above.square() + below.square()

    @torch.no_grad()
    def update(self, real: Tensor, fake: Tensor) -> None:
        """Move both anchors towards the mean logits over all processes; call it on every process, once per step."""
        for anchor, logits in ((self.real, real), (self.fake, fake)):
            anchor.lerp_(self.mean(logits.float().mean()), 1 - self.decay)


class Adversary(nn.Module):
    """The discriminator and its anchors: everything that stage 2 saves beside the tokenizer.

    Both losses are computed in float32, whatever the autocast state [T].
    """

    def __init__(self, discriminator: PatchDiscriminator, decay: float = 0.999, mean: Mean = _own) -> None:
        """See `LeCam` for `decay` and `mean`."""
        super().__init__()
        self.discriminator = discriminator
        self.lecam = LeCam(decay, mean)

    def generator_loss(self, decoded_B3HW: Tensor) -> Tensor:
        """The tokenizer's term; no gradient reaches the discriminator's weights.

        Args:
            decoded_B3HW: float, about [-1, 1].

        Returns:
            A float32 scalar.
        """
        weights = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        with torch.autocast(decoded_B3HW.device.type, enabled=False):
            return generator_loss(functional_call(self.discriminator, weights, decoded_B3HW.float()))

    def discriminator_terms(self, decoded_B3HW: Tensor, pixels_B3HW: Tensor) -> dict[str, Tensor]:
        """The discriminator's own terms; no gradient reaches the images. In training mode, moves the anchors.

        Args:
            decoded_B3HW: float, about [-1, 1].
            pixels_B3HW: float in [-1, 1].

        Returns:
            `discriminator`, the hinge loss, and `lecam`, the regularization against the anchors as they were before;
            float32 scalars, not yet weighted.
        """
        images = torch.cat([pixels_B3HW.detach().float(), decoded_B3HW.detach().float()])
        with torch.autocast(images.device.type, enabled=False):
            real, fake = self.discriminator(images).split([len(pixels_B3HW), len(decoded_B3HW)])
        terms = {"discriminator": discriminator_loss(real, fake), "lecam": self.lecam(real, fake)}
        if self.training:
            self.lecam.update(real, fake)
        return terms

    def forward(self, decoded_B3HW: Tensor, pixels_B3HW: Tensor) -> dict[str, Tensor]:
        """`discriminator_terms`, for wrappers that synchronize gradients around `forward`."""
        return self.discriminator_terms(decoded_B3HW, pixels_B3HW)
