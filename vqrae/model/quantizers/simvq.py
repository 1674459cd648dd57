"""SimVQ: a frozen codebook seen through one learnable linear map, so that every step moves all codes at once.

Paper §3.2; SimVQ (arXiv 2411.02038). Shape suffixes as in `quantizer`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqrae.model.parts import Affine, affine_from_linear
from vqrae.model.quantizers.config import SimVQConfig
from vqrae.model.quantizers.quantizer import Quantized, Quantizer
from vqrae.model.search import argmax_by_slices, nearest_codes


class SimVQ(Quantizer):
    """index = argmin_i ‖z − (c_i W + w)‖₂ over the frozen codes c_i; the learnable part is the map (W, w)."""

    movable = True
    codebook: Tensor

    def __init__(self, config: SimVQConfig) -> None:
        super().__init__(config)
        self.beta = config.beta
        codebook = torch.randn(config.codebook_size, config.code_width) * config.code_width**-0.5
        self.register_buffer("codebook", codebook)
        self.transform = nn.Linear(config.code_width, config.code_width)

    def forward(self, projected_BNE: Tensor) -> Quantized:
        """See `Quantizer`; the loss is the codebook term plus β times commitment."""
        with torch.autocast(projected_BNE.device.type, enabled=False):
            z_BNE = projected_BNE.float()
            codes_KE = self.codes()
            indices_BN = self.indices(z_BNE.detach().flatten(0, 1), codes_KE.detach()).view(z_BNE.shape[:2])
            chosen_BNE = F.embedding(indices_BN, codes_KE)
            loss = F.mse_loss(chosen_BNE, z_BNE.detach()) + self.beta * F.mse_loss(chosen_BNE.detach(), z_BNE)
            vectors_BNE = z_BNE + (chosen_BNE - z_BNE).detach()
        return Quantized(vectors_BNE, indices_BN, loss)

    def codes(self) -> Tensor:
        """The effective codes C·W + w, float32 (K, E)."""
        return self.transform(self.codebook)

    def indices(self, projected_ME: Tensor, codes_KE: Tensor | None = None) -> Tensor:
        """See `Quantizer`."""
        return nearest_codes(projected_ME, self.codes() if codes_KE is None else codes_KE)

    def lookup(self, indices: Tensor) -> Tensor:
        """See `Quantizer`: only the codes that are asked for are mapped."""
        return self.transform(F.embedding(indices, self.codebook))

    @torch.no_grad()
    def set_codes(self, codes_KE: Tensor) -> None:
        """Replace the frozen codes, and make the map the identity, so that they are the effective codes too."""
        self.codebook.copy_(codes_KE)
        nn.init.eye_(self.transform.weight)
        nn.init.zeros_(self.transform.bias)

    def search_graph(self, before: Affine, grid: tuple[int, int], dtype: torch.dtype) -> nn.Module:
        """See `Quantizer`: one GEMM and an argmax."""
        return _Search(self.scores(before), grid, dtype)

    def lookup_graph(self, after: Affine, tokens: int, dtype: torch.dtype, out: torch.dtype) -> nn.Module:
        """See `Quantizer`: one gather."""
        return _Lookup(self.table(after), tokens, dtype, out)

    def scores(self, before: Affine) -> Affine:
        """Scores of all codes as one map from the features: argmin‖Pz + p − c_i‖² = argmax(S_i·z + b_i).

        S = C_eff·P and b = C_eff·p − ½‖C_eff‖². Subtracting their means over the codes moves every score of a token by
        the same amount, which the argmax does not see, and shrinks their range.
        """
        codes_KE = self._codes_in_float64()
        scores = Affine(codes_KE @ before.weight, codes_KE @ before.bias - codes_KE.square().sum(1) / 2)
        return Affine(scores.weight - scores.weight.mean(0), scores.bias - scores.bias.mean())

    def table(self, after: Affine) -> Tensor:
        """Every code after the projection out, float64 (K, C), so that decoding starts with ready features."""
        return self._codes_in_float64() @ after.weight.T + after.bias

    def _codes_in_float64(self) -> Tensor:
        transform = affine_from_linear(self.transform)
        return self.codebook.double() @ transform.weight.T + transform.bias


class _Search(nn.Module):
    """Features (B, h·w, C) -> indices int32 (B, h, w)."""

    def __init__(self, scores: Affine, grid: tuple[int, int], dtype: torch.dtype) -> None:
        super().__init__()
        self.grid = grid
        self.scores = scores.as_linear(dtype)

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        return argmax_by_slices(self.scores(features)).to(torch.int32).reshape(-1, *self.grid)


class _Lookup(nn.Module):
    """Indices int32 (B, h, w) -> quantized features (B, h·w, C)."""

    table_KC: Tensor

    def __init__(self, table_KC: Tensor, tokens: int, dtype: torch.dtype, out: torch.dtype) -> None:
        super().__init__()
        self.tokens, self.out = tokens, out
        self.register_buffer("table_KC", table_KC.to(dtype))

    def forward(self, indices: Tensor) -> Tensor:
        """See the class."""
        return F.embedding(indices.reshape(-1, self.tokens), self.table_KC).to(self.out)
