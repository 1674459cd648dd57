"""What networks come apart into, for a deployed form that is one for all families.

Torch is named for its types alone: families of encoders are part of a configuration, which is read without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Affine(NamedTuple):
    """x ↦ x·weightᵀ + bias, in float64."""

    weight: Tensor
    """(out, in)."""
    bias: Tensor
    """(out,)."""

    def as_linear(self, dtype: torch.dtype) -> nn.Linear:
        """The same map as a module."""
        from torch import nn

        layer = nn.Linear(self.weight.shape[1], self.weight.shape[0], dtype=dtype, device="meta")
        layer.weight = nn.Parameter(self.weight.to(dtype), requires_grad=False)
        layer.bias = nn.Parameter(self.bias.to(dtype), requires_grad=False)
        return layer


def affine_from_linear(layer: nn.Linear) -> Affine:
    """The map of a Linear; a missing bias is zero."""
    weight = layer.weight.detach().double()
    bias: Tensor | None = layer.bias  # torch declares it as always there
    return Affine(weight, weight.new_zeros(weight.shape[0]) if bias is None else bias.detach().double())


def scaled(affine: Affine, factor: Tensor | float) -> Affine:
    """The map followed by a multiplication, per output where `factor` is a vector (such as a layer scale)."""
    column = factor if isinstance(factor, int | float) else factor[:, None]
    return Affine(affine.weight * column, affine.bias * factor)


@dataclass(frozen=True, kw_only=True)
class BlockParts:
    """A pre-norm transformer block of any family, taken apart. `Affine` parts have their layer scales folded in."""

    heads: int
    attention_norm: nn.Module
    query: Affine
    key: Affine
    value: Affine
    out: Affine
    mlp_norm: nn.Module
    up: Affine
    down: Affine
    activation: nn.Module
    query_norm: nn.Module | None = None
    key_norm: nn.Module | None = None
    gate: Affine | None = None
    """Where the MLP is gated: activation(gate) · up."""


@dataclass(frozen=True, kw_only=True)
class EncoderParts:
    """A vision encoder of any family, taken apart."""

    convolution: nn.Conv2d
    prefix_1TC: Tensor
    """Class token with its position embedding (1, T, C); T is 0 where there is none."""
    positions_NC: Tensor
    """Position embeddings of the patch tokens."""
    blocks: tuple[BlockParts, ...]
    norm: nn.Module
