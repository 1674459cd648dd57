"""What a tokenizer asks of its quantizer, whatever its kind.

The index of a feature is that of the code nearest to it. Shape suffixes: B batch, N tokens, M = B·N, K codes, E code
width, C feature width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vqrae.model.parts import Affine
from vqrae.model.quantizers.config import QuantizerConfig


class Quantized(NamedTuple):
    """What a training step sees of a batch."""

    vectors: Tensor
    """The chosen codes (B, N, E) float32; gradients pass straight through to the input."""
    indices: Tensor
    """Their ids, int64 (B, N)."""
    loss: Tensor
    """The kind's own terms, scalar float32."""


class Quantizer(nn.Module, ABC):
    """Projected features (B, N, E) to indices in [0, K), and back to vectors."""

    movable: ClassVar[bool]
    """Whether `set_codes` can put the codes anywhere; where not, they have their places by definition."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.width = config.code_width

    @abstractmethod
    def forward(self, projected_BNE: Tensor) -> Quantized:
        """Quantize with gradients; computed in float32 whatever the autocast state."""

    @abstractmethod
    def codes(self) -> Tensor:
        """The vector of every code, float32 (K, E)."""

    @abstractmethod
    def indices(self, projected_ME: Tensor, codes_KE: Tensor | None = None) -> Tensor:
        """The index of each projected feature, int64 (M,).

        Args:
            projected_ME: float32.
            codes_KE: what `codes` gave; who asks more than once has them computed once.
        """

    @abstractmethod
    def lookup(self, indices: Tensor) -> Tensor:
        """The vectors of some indices (…) -> (…, E)."""

    @abstractmethod
    def set_codes(self, codes_KE: Tensor) -> None:
        """Make these the codes; asked only where `movable`."""

    @abstractmethod
    def search_graph(self, before: Affine, grid: tuple[int, int], dtype: torch.dtype) -> nn.Module:
        """The deployed search: features (B, h·w, C) -> indices int32 (B, h, w), with no code width left in between.

        Args:
            before: the projection from C to E, folded in.
            grid: (h, w).
            dtype: of its weights, and of what it computes.

        Returns:
            A module whose one matrix product is a layer called `scores`, where it has any.
        """

    @abstractmethod
    def lookup_graph(self, after: Affine, tokens: int, dtype: torch.dtype, out: torch.dtype) -> nn.Module:
        """The deployed lookup: indices int32 (B, h, w) -> quantized features (B, tokens, C).

        Args:
            after: the projection from E to C, folded in.
            tokens: h·w.
            dtype: of its weights.
            out: dtype of what it gives.
        """
