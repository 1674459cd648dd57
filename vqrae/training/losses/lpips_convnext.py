"""The perceptual loss of the paper's training code: LPIPS and the logits of a ConvNeXt-S (TiTok's code base, §3.4)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqrae.model.encoders.library import IMAGENET_MEAN, IMAGENET_STD
from vqrae.runtimes.errors import RuntimeUnavailable

CONVNEXT_WEIGHT = 0.1
"""Of the logits' distance, beside LPIPS [T]."""
CONVNEXT_SIDE = 224
"""Side in pixels that images are resized to for the ConvNeXt, bilinear with antialias [T]."""


class LpipsConvNext(nn.Module):
    """Mean of LPIPS and of the logits' squared error, weighted 1 to 0.1; float32 whatever the autocast state.

    A mean as in TiTok's code base, where the paper's weight of 1.1 for the term makes it LPIPS + 0.1 · ConvNeXt-S. Both
    networks are frozen.
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, lpips: nn.Module, convnext: nn.Module) -> None:
        """Around networks that are given; `pretrained` gives the real ones.

        Args:
            lpips: two batches of pixels in [-1, 1] -> one distance per image.
            convnext: pixels (B, 3, 224, 224) with ImageNet's normalization -> logits (B, classes).
        """
        super().__init__()
        self.lpips = lpips
        self.convnext = convnext
        self.register_buffer("image_mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def pretrained(cls) -> Self:
        """LPIPS on VGG-16 (arXiv 1801.03924), and torchvision's ConvNeXt-S (IMAGENET1K_V1).

        torchvision fetches the weights of VGG-16 (about 530 MB) and ConvNeXt-S (about 200 MB) on first use, to where
        torch keeps downloads (`$TORCH_HOME/hub/checkpoints`), and finds them there on a machine without a network. The
        weights of LPIPS itself come with its package.

        Raises:
            RuntimeUnavailable: lpips or torchvision is not installed or does not load, or their weights cannot be had.
        """
        try:
            from lpips import LPIPS
            from torchvision.models import ConvNeXt_Small_Weights, convnext_small
        except (ImportError, OSError, RuntimeError) as error:  # a torchvision that is not for this torch: the latter
            remedy = (
                "install them with `pip install 'vqrae[lpips]'`, torchvision in the version and build for your torch"
            )
            raise RuntimeUnavailable("lpips and torchvision", got=f"not loadable ({error})", remedy=remedy) from error
        try:
            return cls(LPIPS(net="vgg", verbose=False), convnext_small(weights=ConvNeXt_Small_Weights.IMAGENET1K_V1))
        except (OSError, RuntimeError) as error:  # no network, or a file with another hash than its name states
            folder = f"{torch.hub.get_dir()}/checkpoints"
            remedy = f"put vgg16-397923af.pth and convnext_small-0c510722.pth from download.pytorch.org in {folder}"
            raise RuntimeUnavailable("weights of VGG-16 and ConvNeXt-S", got=str(error), remedy=remedy) from error

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the modules around do: both networks drop units in training."""
        return super().train(False)

    def forward(self, decoded_B3HW: Tensor, pixels_B3HW: Tensor) -> Tensor:
        """The loss; its gradient reaches the decoded pixels only.

        Args:
            decoded_B3HW: float, about [-1, 1], not clamped.
            pixels_B3HW: float in [-1, 1].

        Returns:
            A float32 scalar.
        """
        with torch.autocast(decoded_B3HW.device.type, enabled=False):
            decoded, pixels = decoded_B3HW.float(), pixels_B3HW.detach().float()
            lpips = self.lpips(decoded, pixels).mean()
            with torch.no_grad():
                target = self._logits(pixels)
            logits = F.mse_loss(self._logits(decoded), target)
            return (lpips + CONVNEXT_WEIGHT * logits) / (1 + CONVNEXT_WEIGHT)

    def _logits(self, pixels_B3HW: Tensor) -> Tensor:
        size = (CONVNEXT_SIDE, CONVNEXT_SIDE)
        resized = F.interpolate((pixels_B3HW + 1) / 2, size, mode="bilinear", align_corners=False, antialias=True)
        return self.convnext((resized - self.image_mean) / self.image_std)
