"""InternViT, alone or inside an InternVL, in transformers' own format.

The original InternViT (`intern_vit_6b` at every size) and InternVL (`internvl_chat`) run code of their own
repositories.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from vqrae.model.encoders.library import ClassTokenFamily, ClassTokenFields, Scale, Share, Side, Wide
from vqrae.model.parts import BlockParts, affine_from_linear, scaled

_INSTEAD = "use an InternVL in transformers' own format,"


class InternVitFields(ClassTokenFields):
    """Of InternVLVisionConfig."""

    image_size: Side | tuple[Side, Side] = 1
    patch_size: Side | tuple[Side, Side] = 1
    intermediate_size: Wide = 1
    attention_bias: bool = False
    use_qk_norm: bool = False
    norm_type: Literal["layer_norm", "rms_norm"] = "layer_norm"
    layer_scale_init_value: Scale = 0.1
    use_absolute_position_embeddings: bool = True
    use_mean_pooling: bool = True
    attention_dropout: Share = 0.0
    projection_dropout: Share = 0.0


class InternVit(ClassTokenFamily):
    """Layer scales behind attention and MLP; queries and keys may be normed."""

    fields = InternVitFields
    holders: ClassVar[Mapping[str, str]] = {"internvl": "vision_tower"}
    near_misses: ClassVar[Mapping[str, str]] = {
        "intern_vit_6b": f"{_INSTEAD} which holds one, such as OpenGVLab/InternVL3-1B-hf",
        "internvl_chat": f"{_INSTEAD} such as OpenGVLab/InternVL3-1B-hf",
    }
    library = "InternVLVisionConfig", "InternVLVisionModel"

    def block(self, layer: Any) -> BlockParts:
        """See `LibraryFamily`."""
        attention = layer.attention
        normed = next(attention.q_norm.parameters(), None) is not None  # an Identity stands where there is no norm
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
