"""The deployed transformer block, and how the blocks of each encoder family and of the decoder become one.

One form for all: queries, keys and values in one GEMM with the attention scale inside, layer scales inside the linear
layers that they follow.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from vqrae.calibration.layers import Role
from vqrae.export.deployable import inside
from vqrae.export.folding import joined
from vqrae.export.form import Form
from vqrae.model.parts import BlockParts, scaled


class DeployedNorm(nn.Module):
    """A norm computed in the kept dtype, whatever comes in."""

    def __init__(self, norm: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm = copy.deepcopy(norm).to(dtype).requires_grad_(False)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) of any float dtype -> (…, C) in the kept dtype."""
        return self.norm(x.to(self.dtype))


class DeployedBlock(nn.Module):
    """One transformer block in its deployed form."""

    ROLES: ClassVar[Mapping[str, Role]] = {
        "": "attention",  # multiplies queries and keys, weights and values
        "query_key_value": "attention",
        "out": "attention",
        "gate": "mlp",
        "up": "mlp",
        "down": "mlp",
    }

    def __init__(self, parts: BlockParts, dtypes: Form) -> None:
        super().__init__()
        self.heads = parts.heads
        self.dtypes = dtypes
        self.attention_norm = DeployedNorm(parts.attention_norm, dtypes.kept)
        scale = (parts.query.weight.shape[0] // parts.heads) ** -0.5
        query = parts.query
        if parts.query_norm is None:
            query = scaled(query, scale)
        # A norm on the queries would undo a scale in front of it, so there the scale comes after.
        self.scale_after_norm = scale
        self.query_norm = None if parts.query_norm is None else DeployedNorm(parts.query_norm, dtypes.kept)
        self.key_norm = None if parts.key_norm is None else DeployedNorm(parts.key_norm, dtypes.kept)
        self.query_key_value = joined(query, parts.key, parts.value).as_linear(dtypes.compute)
        self.out = parts.out.as_linear(dtypes.compute)
        self.mlp_norm = DeployedNorm(parts.mlp_norm, dtypes.kept)
        self.gate = None if parts.gate is None else parts.gate.as_linear(dtypes.compute)
        self.up = parts.up.as_linear(dtypes.compute)
        self.activation = parts.activation
        self.down = parts.down.as_linear(dtypes.compute)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        attended = self.out(self._attend(self.attention_norm(x_BNC).to(self.dtypes.compute)))
        x_BNC = x_BNC + attended.to(self.dtypes.residual)
        hidden = self.mlp_norm(x_BNC).to(self.dtypes.compute)
        up = self.up(hidden)
        wide = self.activation(up) if self.gate is None else self.activation(self.gate(hidden)) * up
        return x_BNC + self.down(wide).to(self.dtypes.residual)

    def _attend(self, x_BNC: Tensor) -> Tensor:
        compute = self.dtypes.compute
        query, key, value = self.query_key_value(x_BNC).chunk(3, dim=-1)
        if self.query_norm is not None and self.key_norm is not None:
            query = (self.query_norm(query) * self.scale_after_norm).to(compute)
            key = self.key_norm(key).to(compute)
        q_BHND, k_BHND, v_BHND = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        weights_BHNN = (q_BHND @ k_BHND.transpose(-1, -2)).to(self.dtypes.kept).softmax(-1).to(compute)
        return (weights_BHNN @ v_BHND).transpose(1, 2).flatten(2)


def block_roles(depth: int) -> dict[str, Role]:
    """What the modules of a stack are, below `blocks`."""
    stack = [inside(f"blocks.{number}", DeployedBlock.ROLES) for number in range(depth)]
    return {name: role for roles in stack for name, role in roles.items()}


def deployed_blocks(parts: Iterable[BlockParts], dtypes: Form) -> nn.Sequential:
    """A stack of deployed blocks."""
    return nn.Sequential(*(DeployedBlock(part, dtypes) for part in parts))
