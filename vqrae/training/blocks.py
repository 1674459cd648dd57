"""The transformer blocks of networks: what is compiled, checkpointed and sharded one by one."""

from __future__ import annotations

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from vqrae.model.layers import Block


def transformer_blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks of all networks below a module, the encoders' library's and our own, in order."""
    return [part for part in module.modules() if isinstance(part, GradientCheckpointingLayer | Block)]
