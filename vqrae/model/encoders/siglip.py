"""SigLIP and SigLIP2 of a fixed resolution, which is a `siglip` to transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from vqrae.model.encoders.library import SIGLIP_MEAN, LibraryFamily, NetworkFields, Share, Side, Wide
from vqrae.model.parts import BlockParts, EncoderParts, affine_from_linear

if TYPE_CHECKING:
    from torch import Tensor

_INSTEAD = "use one of a fixed resolution, not NaFlex, such as google/siglip2-so400m-patch16-256"


class SiglipFields(NetworkFields):
    """Of SiglipVisionConfig."""

    image_size: Side = 1
    patch_size: Side = 1
    intermediate_size: Wide = 1
    attention_dropout: Share = 0.0
    vision_use_head: bool = False


class Siglip(LibraryFamily):
    """No class token; a linear layer each for queries, keys and values."""

    fields = SiglipFields
    prefix_tokens = 0
    normalization = SIGLIP_MEAN, SIGLIP_MEAN
    holders: ClassVar[Mapping[str, str]] = {"siglip": ""}
    near_misses: ClassVar[Mapping[str, str]] = {"siglip2": _INSTEAD, "siglip2_vision_model": _INSTEAD}
    pretrained: ClassVar[Mapping[str, bool]] = {"vision_use_head": False}  # the pooling head would get no gradient
    library = "SiglipVisionConfig", "SiglipVisionModel"
    told_to_interpolate = True

    def positions(self, network: Any) -> Tensor | None:
        """See `EncoderFamily`."""
        return network.embeddings.position_embedding.weight

    def parts(self, network: Any) -> EncoderParts:
        """See `EncoderFamily`."""
        positions_NC = network.embeddings.position_embedding.weight.detach()
        return EncoderParts(
            convolution=network.embeddings.patch_embedding,
            prefix_1TC=positions_NC[None, :0],
            positions_NC=positions_NC,
            blocks=tuple(self.block(layer) for layer in network.encoder.layers),
            norm=network.post_layernorm,
        )

    def block(self, layer: Any) -> BlockParts:
        """See `LibraryFamily`."""
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
