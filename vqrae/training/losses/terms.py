"""The terms of the training losses. Each is a float32 scalar mean; weights are applied where the terms are summed."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def pixel_loss(decoded_B3HW: Tensor, pixels_B3HW: Tensor) -> Tensor:
    """Mean squared error between pixels in [-1, 1] (paper §3.4)."""
    return F.mse_loss(decoded_B3HW.float(), pixels_B3HW.float())


def distillation_loss(features_BNC: Tensor, target_BNC: Tensor) -> Tensor:
    """Mean squared distance of the *continuous* features from the frozen initial encoder's (paper §3.4).

    On the quantized features it would hold the wrong tensor: understanding reads the continuous ones.
    """
    return F.mse_loss(features_BNC.float(), target_BNC.float())
