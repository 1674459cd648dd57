"""The adversarial loss of stage 2: hinge terms and LeCam regularization, as in TiTok's code base [T] (paper §3.4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from vqrae.training.losses.discriminator import PatchDiscriminator

Mean = Callable[[Tensor], Tensor]
"""A process's scalar -> its mean over all processes, the same on each."""


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
