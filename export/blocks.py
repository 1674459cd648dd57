"""The deployed transformer block, and how the blocks of each encoder family and of the decoder become one.

One form for all: queries, keys and values in one GEMM with the attention scale inside, layer scales inside the linear
layers that they follow.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vqrae.config import EncoderFamily
from vqrae.decoder import Decoder
from vqrae.export.folding import Affine, affine_from_linear, joined, scaled


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


class DeployedBlock(nn.Module):
    """One transformer block in its deployed form."""

    def __init__(self, parts: BlockParts, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = parts.heads
        self.attention_norm = _copy(parts.attention_norm, dtype)
        scale = (parts.query.weight.shape[0] // parts.heads) ** -0.5
        query = parts.query
        if parts.query_norm is None:
            query = scaled(query, scale)
        # A norm on the queries would undo a scale in front of it, so there the scale comes after.
        self.scale_after_norm = scale
        self.query_norm = _copy(parts.query_norm, dtype)
        self.key_norm = _copy(parts.key_norm, dtype)
        self.query_key_value = joined(query, parts.key, parts.value).as_linear(dtype)
        self.out = parts.out.as_linear(dtype)
        self.mlp_norm = _copy(parts.mlp_norm, dtype)
        self.gate = None if parts.gate is None else parts.gate.as_linear(dtype)
        self.up = parts.up.as_linear(dtype)
        self.activation = parts.activation
        self.down = parts.down.as_linear(dtype)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        x_BNC = x_BNC + self.out(self._attend(self.attention_norm(x_BNC)))
        hidden = self.mlp_norm(x_BNC)
        up = self.up(hidden)
        return x_BNC + self.down(self.activation(up) if self.gate is None else self.activation(self.gate(hidden)) * up)

    def _attend(self, x_BNC: Tensor) -> Tensor:
        query, key, value = self.query_key_value(x_BNC).chunk(3, dim=-1)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query) * self.scale_after_norm, self.key_norm(key)
        q_BHND, k_BHND, v_BHND = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        weights_BHNN = (q_BHND @ k_BHND.transpose(-1, -2)).softmax(-1)
        return (weights_BHNN @ v_BHND).transpose(1, 2).flatten(2)


def deployed_blocks(parts: Iterable[BlockParts], dtype: torch.dtype) -> nn.Sequential:
    """A stack of deployed blocks."""
    return nn.Sequential(*(DeployedBlock(part, dtype) for part in parts))


def _copy(module: nn.Module | None, dtype: torch.dtype) -> Any:
    return None if module is None else copy.deepcopy(module).to(dtype).requires_grad_(False)


def decoder_parts(decoder: Decoder) -> list[BlockParts]:
    """The blocks of our own decoder."""
    return [_block_parts(block) for block in decoder.blocks]


def _block_parts(block: Any) -> BlockParts:
    attention = block.attention
    return BlockParts(
        heads=attention.heads,
        attention_norm=block.attention_norm,
        query=affine_from_linear(attention.query),
        key=affine_from_linear(attention.key),
        value=affine_from_linear(attention.value),
        out=affine_from_linear(attention.out),
        mlp_norm=block.mlp_norm,
        up=affine_from_linear(block.mlp.up),
        down=affine_from_linear(block.mlp.down),
        activation=nn.GELU(approximate="tanh"),
    )


def _siglip_parts(layer: Any) -> BlockParts:
    attention = layer.self_attn
    return BlockParts(
        heads=attention.num_heads,
        attention_norm=layer.layer_norm1,
        query=affine_from_linear(attention.q_proj),
        key=affine_from_linear(attention.k_proj),
        value=affine_from_linear(attention.v_proj),
        out=affine_from_linear(attention.out_proj),
        mlp_norm=layer.layer_norm2,
        up=affine_from_linear(layer.mlp.fc1),
        down=affine_from_linear(layer.mlp.fc2),
        activation=layer.mlp.activation_fn,
    )


def _dinov2_parts(layer: Any) -> BlockParts:
    attention, mlp = layer.attention, layer.mlp
    first, second = (scale.lambda1.detach().double() for scale in (layer.layer_scale1, layer.layer_scale2))
    gated = hasattr(mlp, "gate_proj")  # the library picks one of two MLP classes by configuration
    return BlockParts(
        heads=attention.num_attention_heads,
        attention_norm=layer.norm1,
        query=affine_from_linear(attention.q_proj),
        key=affine_from_linear(attention.k_proj),
        value=affine_from_linear(attention.v_proj),
        out=scaled(affine_from_linear(attention.o_proj), first),
        mlp_norm=layer.norm2,
        gate=affine_from_linear(mlp.gate_proj) if gated else None,
        up=affine_from_linear(mlp.up_proj if gated else mlp.fc1),
        down=scaled(affine_from_linear(mlp.down_proj if gated else mlp.fc2), second),
        activation=mlp.act_fn if gated else mlp.activation_fn,
    )


def _internvl_parts(layer: Any) -> BlockParts:
    attention = layer.attention
    normed = not isinstance(attention.q_norm, nn.Identity)
    return BlockParts(
        heads=attention.num_heads,
        attention_norm=layer.layernorm_before,
        query=affine_from_linear(attention.q_proj),
        key=affine_from_linear(attention.k_proj),
        value=affine_from_linear(attention.v_proj),
        query_norm=attention.q_norm if normed else None,
        key_norm=attention.k_norm if normed else None,
        out=scaled(affine_from_linear(attention.projection_layer), layer.lambda_1.detach().double()),
        mlp_norm=layer.layernorm_after,
        up=affine_from_linear(layer.mlp.fc1),
        down=scaled(affine_from_linear(layer.mlp.fc2), layer.lambda_2.detach().double()),
        activation=layer.mlp.activation_fn,
    )


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


def _siglip_encoder(network: Any) -> EncoderParts:
    embeddings = network.embeddings
    positions = embeddings.position_embedding.weight.detach()
    return EncoderParts(
        convolution=embeddings.patch_embedding,
        prefix_1TC=positions[None, :0],
        positions_NC=positions,
        blocks=tuple(_siglip_parts(layer) for layer in network.encoder.layers),
        norm=network.post_layernorm,
    )


def _class_token_encoder(network: Any, part: Callable[[Any], BlockParts]) -> EncoderParts:
    embeddings = network.embeddings
    positions = embeddings.position_embeddings
    cls_token = embeddings.cls_token.detach()
    # Where the network has none: one zero row for the class token, one that broadcasts over the patch tokens.
    positions = cls_token.new_zeros(1, 2, cls_token.shape[-1]) if positions is None else positions.detach()
    return EncoderParts(
        convolution=embeddings.patch_embeddings.projection,
        prefix_1TC=cls_token + positions[:, :1],
        positions_NC=positions[0, 1:],
        blocks=tuple(part(layer) for layer in network.encoder.layer),
        norm=network.layernorm,
    )


ENCODER_PARTS: dict[EncoderFamily, Callable[[Any], EncoderParts]] = {
    "siglip_vision_model": _siglip_encoder,
    "dinov2": lambda network: _class_token_encoder(network, _dinov2_parts),
    "internvl_vision": lambda network: _class_token_encoder(network, _internvl_parts),
}
"""How each encoder family of `vqrae.encoder` comes apart."""
