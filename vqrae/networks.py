"""What a configuration may say about a vision network of transformers. Nothing else of it reaches transformers.

Some of what transformers takes from a configuration runs code of a hub (`auto_map`, `_attn_implementation`), and its
own checks let sizes pass that no machine holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vqrae.runtimes.json_text import first_problem

EncoderFamily = Literal["siglip_vision_model", "dinov2", "internvl_vision"]

_Width = Annotated[int, Field(ge=1, le=2**14)]
_Wide = Annotated[int, Field(ge=1, le=2**16)]
_Layers = Annotated[int, Field(ge=1, le=256)]
_Heads = Annotated[int, Field(ge=1, le=256)]
_Side = Annotated[int, Field(ge=1, le=2**14)]
_Sides = _Side | tuple[_Side, _Side]
_Epsilon = Annotated[float, Field(gt=0, le=1)]
_Share = Annotated[float, Field(ge=0, lt=1)]
_Scale = Annotated[float, Field(ge=-1e6, le=1e6)]
_Activation = Literal["gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish"]
NOTES = frozenset(
    {
        *("_name_or_path", "architectures", "chunk_size_feed_forward", "dtype", "id2label", "is_encoder_decoder"),
        *("label2id", "model_type", "out_features", "out_indices", "output_attentions", "output_hidden_states"),
        *("problem_type", "return_dict", "stage_names", "torch_dtype", "transformers_version"),
    }
)
"""What transformers writes beside a network's own fields, and what says nothing about it: kept, not passed on."""


class _Network(BaseModel):
    """Fields that several families have. What is absent is transformers' to fill."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    hidden_size: _Width = 1
    num_hidden_layers: _Layers = 1
    num_attention_heads: _Heads = 1
    num_channels: Literal[3] = 3
    hidden_act: _Activation = "gelu"
    layer_norm_eps: _Epsilon = 1e-6


class _Siglip(_Network):
    image_size: _Side = 1
    patch_size: _Side = 1
    intermediate_size: _Wide = 1
    attention_dropout: _Share = 0.0
    vision_use_head: bool = False


class _Dinov2(_Network):
    image_size: _Side = 1
    patch_size: _Side = 1
    mlp_ratio: Annotated[int, Field(gt=0, le=64)] = 1
    qkv_bias: bool = True
    layerscale_value: _Scale = 1.0
    use_swiglu_ffn: bool = False
    use_mask_token: bool = True
    apply_layernorm: bool = True
    reshape_hidden_states: bool = True
    hidden_dropout_prob: _Share = 0.0
    attention_probs_dropout_prob: _Share = 0.0
    drop_path_rate: _Share = 0.0
    initializer_range: _Share = 0.02


class _InternVit(_Network):
    image_size: _Sides = 1
    patch_size: _Sides = 1
    intermediate_size: _Wide = 1
    attention_bias: bool = False
    use_qk_norm: bool = False
    norm_type: Literal["layer_norm", "rms_norm"] = "layer_norm"
    layer_scale_init_value: _Scale = 0.1
    use_mask_token: bool = False
    use_absolute_position_embeddings: bool = True
    use_mean_pooling: bool = True
    hidden_dropout_prob: _Share = 0.0
    attention_dropout: _Share = 0.0
    projection_dropout: _Share = 0.0
    initializer_range: _Share = 0.02


_FAMILIES: dict[EncoderFamily, type[_Network]] = {
    "siglip_vision_model": _Siglip,
    "dinov2": _Dinov2,
    "internvl_vision": _InternVit,
}


def checked_network(family: EncoderFamily, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that reach transformers, of a configuration that holds no other ones but `NOTES`.

    Raises:
        ValueError: an unknown field, or a value out of bounds; says which.
    """
    own = {name: value for name, value in values.items() if name not in NOTES}
    try:
        _FAMILIES[family].model_validate_json(json.dumps(own))
    except ValidationError as error:
        subject, got, expected = first_problem("", error.errors(include_url=False)[0])
        raise ValueError(f"{subject.removeprefix(' field ')} {got}, where {expected} is expected") from error
    return own


def known_fields(family: EncoderFamily, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a foreign configuration, the fields that mean anything here; what else it says has no effect."""
    return {name: value for name, value in values.items() if name in _FAMILIES[family].model_fields}
