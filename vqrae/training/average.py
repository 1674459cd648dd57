"""An exponential moving average of the weights: less noisy than the last step's, and what is evaluated (TiTok)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MovingAverage:
    """average ← decay · average + (1 − decay) · weights, after every step, in the weights' own dtype and sharding."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Begin at the weights as they are."""
        self.decay = decay
        self._weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.tensors: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._weights.items()}
        """Name of each trained parameter -> its average."""

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        for name, average in self.tensors.items():
            average.lerp_(self._weights[name].detach(), 1 - self.decay)
