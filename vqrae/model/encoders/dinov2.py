"""DINOv2 without registers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from vqrae.model.encoders.library import ClassTokenFamily, ClassTokenFields, Scale, Share, Side
from vqrae.model.parts import BlockParts, affine_from_linear, scaled


class Dinov2Fields(ClassTokenFields):
    """Of Dinov2Config."""

    image_size: Side = 1
    patch_size: Side = 1
    mlp_ratio: Annotated[int, Field(gt=0, le=64)] = 1
    qkv_bias: bool = True
    layerscale_value: Scale = 1.0
    use_swiglu_ffn: bool = False
    apply_layernorm: bool = True
    reshape_hidden_states: bool = True
    attention_probs_dropout_prob: Share = 0.0
    drop_path_rate: Share = 0.0


class Dinov2(ClassTokenFamily):
    """Layer scales behind attention and MLP, which may be gated."""

    fields = Dinov2Fields
    near_misses: ClassVar[Mapping[str, str]] = {
        "dinov2_with_registers": "use one without registers, such as facebook/dinov2-base"
    }
    library = "Dinov2Config", "Dinov2Model"

    def block(self, layer: Any) -> BlockParts:
        """See `LibraryFamily`."""
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
