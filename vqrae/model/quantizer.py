"""SimVQ: a frozen codebook seen through one learnable linear map, so that every step moves all codes at once.

Paper §3.2; SimVQ (arXiv 2411.02038). Shape suffixes: B batch, N tokens, M = B·N, K codes, E code width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqrae.model.config import QuantizerConfig
from vqrae.model.search import nearest_codes


class Quantized(NamedTuple):
    """What the quantizer returns."""

    vectors: Tensor
    """The chosen codes (B, N, E) float32; gradients pass straight through to the input."""
    indices: Tensor
    """Their ids, int64 (B, N)."""
    loss: Tensor
    """Codebook plus β·commitment loss, scalar float32."""


class SimVQ(nn.Module):
    """index = argmin_i ‖z − (c_i W + w)‖₂ over the frozen codes c_i; the learnable part is the map (W, w)."""

    codebook: Tensor

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.beta = config.beta
        codebook = torch.randn(config.codebook_size, config.code_width) * config.code_width**-0.5
        self.register_buffer("codebook", codebook)
        self.transform = nn.Linear(config.code_width, config.code_width)

    def codes(self) -> Tensor:
        """The effective codes C·W + w, float32 (K, E)."""
        return self.transform(self.codebook)

    @torch.no_grad()
    def set_codes(self, codes_KE: Tensor) -> None:
        """Replace the frozen codes, and make the map the identity, so that they are the effective codes too."""
        self.codebook.copy_(codes_KE)
        nn.init.eye_(self.transform.weight)
        nn.init.zeros_(self.transform.bias)

    def lookup(self, indices: Tensor) -> Tensor:
        """The effective codes of some indices (…) -> (…, E): only those are mapped."""
        return self.transform(F.embedding(indices, self.codebook))

    def forward(self, projected_BNE: Tensor) -> Quantized:
        """Quantize projected features (B, N, E); computed in float32 whatever the autocast state."""
        with torch.autocast(projected_BNE.device.type, enabled=False):
            z_BNE = projected_BNE.float()
            codes_KE = self.codes()
            indices_BN = nearest_codes(z_BNE.detach().flatten(0, 1), codes_KE.detach()).view(z_BNE.shape[:2])
            chosen_BNE = F.embedding(indices_BN, codes_KE)
            loss = F.mse_loss(chosen_BNE, z_BNE.detach()) + self.beta * F.mse_loss(chosen_BNE.detach(), z_BNE)
            vectors_BNE = z_BNE + (chosen_BNE - z_BNE).detach()
        return Quantized(vectors_BNE, indices_BN, loss)
