"""Configuration of a VQRAE tokenizer, and its presets.

Every field has a docstring with its unit and its source: [P] the paper (arXiv 2511.23386), [S] SimVQ's official code,
[I] our inference where the paper is silent.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from vqrae.networks import EncoderFamily, checked_network
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.names import file_name

SIGLIP_MEAN = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


_Mean = Annotated[float, Field(ge=-1e3, le=1e3)]
_Deviation = Annotated[float, Field(ge=1e-6, le=1e3)]
_Width = Annotated[int, Field(gt=0, le=2**14)]
_Side = Annotated[int, Field(gt=0, le=2**14)]


class StrictConfig(BaseModel):
    """Base of all configurations: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EncoderConfig(StrictConfig):
    """A vision encoder of the transformers library."""

    family: EncoderFamily
    """transformers' `model_type` of the vision network."""
    network: dict[str, Any]
    """The network's own transformers configuration, as in its `config.json`; see `networks.checked_network`."""
    image_mean: tuple[_Mean, _Mean, _Mean] = SIGLIP_MEAN
    """Per-channel mean that the network was trained with, for pixels in [0, 1]."""
    image_std: tuple[_Deviation, _Deviation, _Deviation] = SIGLIP_MEAN
    """Per-channel standard deviation that the network was trained with, for pixels in [0, 1]."""

    @field_validator("network")
    @classmethod
    def _nothing_but_a_network(cls, values: dict[str, Any], known: ValidationInfo) -> dict[str, Any]:
        if "family" in known.data:  # what is wrong with the family is told already
            checked_network(known.data["family"], values)
        return values


class QuantizerConfig(StrictConfig):
    """The SimVQ codebook [P] §3.2."""

    codebook_size: int = Field(16384, gt=1, le=2**24)
    """Number of codes K [P]."""
    code_width: int = Field(1536, gt=0, le=2**14)
    """Width E of a code [P]; the features are projected to it and back."""
    beta: float = Field(0.25, ge=0, le=1e6)
    """Weight of the commitment term [S]."""
    init: Literal["normal", "features"] = "normal"
    """`normal`: codes ~ N(0, E^-0.5), default-initialized W [S]. `features`: codes are centroids (k-means) of the
    training data's projected features and W = identity, which stops the collapse seen at small scale [I]."""


class DecoderConfig(StrictConfig):
    """The ViT decoder, symmetric to the encoder [P] §3.3."""

    width: _Width
    """Width C of the blocks; equal to the encoder's."""
    depth: int = Field(gt=0, le=256)
    """Number of blocks."""
    heads: int = Field(gt=0, le=256)
    """Attention heads per block."""
    mlp_width: int = Field(gt=0, le=2**16)
    """Hidden width of each block's MLP."""
    patch_size: _Side
    """Side, in pixels, of the square that one token decodes to."""
    norm_eps: float = Field(1e-6, gt=0, le=1)
    """LayerNorm epsilon."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> DecoderConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class VQRAEConfig(StrictConfig):
    """A whole tokenizer."""

    name: Annotated[str, AfterValidator(file_name)]
    """Short name; bundles are named after it, so that it has to be one that files can have."""
    image_size: _Side
    """Side of the square input and output, in pixels."""
    encoder: EncoderConfig
    quantizer: QuantizerConfig
    decoder: DecoderConfig

    @model_validator(mode="after")
    def _patches_tile_the_image(self) -> VQRAEConfig:
        if self.image_size % self.decoder.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.decoder.patch_size}")
        return self

    @property
    def grid(self) -> tuple[int, int]:
        """Token grid (h, w)."""
        side = self.image_size // self.decoder.patch_size
        return side, side

    @property
    def feature_width(self) -> int:
        """Width C of the continuous features."""
        return self.decoder.width


def _siglip(image_size: int, patch: int, width: int, depth: int, heads: int, mlp_width: int) -> EncoderConfig:
    network = {
        "image_size": image_size,
        "patch_size": patch,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": mlp_width,
        "vision_use_head": False,
    }
    return EncoderConfig(family="siglip_vision_model", network=network)


def tiny() -> VQRAEConfig:
    """Three million parameters at 64 px on a 32×32 grid: trains on two cores, and photographs stay recognizable."""
    return VQRAEConfig(
        name="vqrae-tiny",
        image_size=64,
        encoder=_siglip(64, patch=2, width=192, depth=3, heads=3, mlp_width=768),
        quantizer=QuantizerConfig(codebook_size=4096, code_width=256, init="features"),
        decoder=DecoderConfig(width=192, depth=3, heads=3, mlp_width=768, patch_size=2),
    )


def base() -> VQRAEConfig:
    """A ViT-B at 256 px with the paper's codebook: the size that latencies are usually quoted at."""
    return VQRAEConfig(
        name="vqrae-base",
        image_size=256,
        encoder=_siglip(256, patch=16, width=768, depth=12, heads=12, mlp_width=3072),
        quantizer=QuantizerConfig(),
        decoder=DecoderConfig(width=768, depth=12, heads=12, mlp_width=3072, patch_size=16),
    )


def _so400m(image_size: int) -> VQRAEConfig:
    return VQRAEConfig(
        name=f"vqrae-siglip2-so400m-{image_size}",
        image_size=image_size,
        encoder=_siglip(image_size, patch=16, width=1152, depth=27, heads=16, mlp_width=4304),
        quantizer=QuantizerConfig(),
        decoder=DecoderConfig(width=1152, depth=27, heads=16, mlp_width=4304, patch_size=16),
    )


def siglip2_so400m_256() -> VQRAEConfig:
    """The paper's SigLIP2-so400m-patch16-256: a 16×16 grid [P]."""
    return _so400m(256)


def siglip2_so400m_512() -> VQRAEConfig:
    """The paper's SigLIP2-so400m-patch16-512: a 32×32 grid [P]."""
    return _so400m(512)


def internvit_300m_448() -> VQRAEConfig:
    """The paper's InternViT-300M-448, patch 14: a 32×32 grid [P]."""
    network = {
        "image_size": [448, 448],
        "patch_size": [14, 14],
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "attention_bias": True,
        "use_absolute_position_embeddings": True,
        "use_mean_pooling": True,
    }
    return VQRAEConfig(
        name="vqrae-internvit-300m-448",
        image_size=448,
        encoder=EncoderConfig(
            family="internvl_vision", network=network, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD
        ),
        quantizer=QuantizerConfig(),
        decoder=DecoderConfig(width=1024, depth=24, heads=16, mlp_width=4096, patch_size=14),
    )


PRESETS: dict[str, Callable[[], VQRAEConfig]] = {
    "tiny": tiny,
    "base": base,
    "siglip2-so400m-256": siglip2_so400m_256,
    "siglip2-so400m-512": siglip2_so400m_512,
    "internvit-300m-448": internvit_300m_448,
}


def preset(name: str) -> VQRAEConfig:
    """The configuration of a preset by name.

    Raises:
        UsageError: the name is not a preset; the nearest one is suggested.
    """
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, n=1)
        remedy = f"did you mean {near[0]}?" if near else None
        raise UsageError("preset", got=repr(name), expected=f"one of {', '.join(PRESETS)}", remedy=remedy)
    return PRESETS[name]()
