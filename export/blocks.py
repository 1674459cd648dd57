"""The deployed transformer block, and how the blocks of each encoder family and of the decoder become one.

One form for all: queries, keys and values in one GEMM with the attention scale inside, layer scales inside the linear
layers that they follow.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vqrae.export.folding import joined
from vqrae.export.form import Form
from vqrae.model.decoder import Decoder
from vqrae.model.layers import resampled_positions
from vqrae.model.parts import BlockParts, EncoderParts, affine_from_linear, scaled
from vqrae.networks import EncoderFamily


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


def deployed_blocks(parts: Iterable[BlockParts], dtypes: Form) -> nn.Sequential:
    """A stack of deployed blocks."""
    return nn.Sequential(*(DeployedBlock(part, dtypes) for part in parts))


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


Grid = tuple[int, int]


def _siglip_encoder(network: Any, grid: Grid) -> EncoderParts:
    embeddings = network.embeddings
    positions = embeddings.position_embedding.weight.detach()
    return EncoderParts(
        convolution=embeddings.patch_embedding,
        prefix_1TC=positions[None, :0],
        positions_NC=resampled_positions(positions, grid),
        blocks=tuple(_siglip_parts(layer) for layer in network.encoder.layers),
        norm=network.post_layernorm,
    )


def _class_token_encoder(network: Any, grid: Grid, part: Callable[[Any], BlockParts]) -> EncoderParts:
    embeddings = network.embeddings
    positions = embeddings.position_embeddings
    cls_token = embeddings.cls_token.detach()
    # Where the network has none: one zero row for the class token, one that broadcasts over the patch tokens.
    none = cls_token.new_zeros(1, 1, cls_token.shape[-1])
    class_position = none if positions is None else positions.detach()[:, :1]
    return EncoderParts(
        convolution=embeddings.patch_embeddings.projection,
        prefix_1TC=cls_token + class_position,
        positions_NC=none[0] if positions is None else resampled_positions(positions.detach()[0, 1:], grid),
        blocks=tuple(part(layer) for layer in network.encoder.layer),
        norm=network.layernorm,
    )


ENCODER_PARTS: dict[EncoderFamily, Callable[[Any, Grid], EncoderParts]] = {
    "siglip_vision_model": _siglip_encoder,
    "dinov2": lambda network, grid: _class_token_encoder(network, grid, _dinov2_parts),
    "internvl_vision": lambda network, grid: _class_token_encoder(network, grid, _internvl_parts),
}
"""How each encoder family of `vqrae.model.encoder` comes apart, its position embeddings resampled to a token grid."""
