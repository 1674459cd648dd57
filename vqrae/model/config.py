"""Configuration of a VQRAE tokenizer; its presets are in `vqrae.config`.

Every field has a docstring with its unit and its source: [P] the paper (arXiv 2511.23386), [S] SimVQ's official code,
[I] our inference where the paper is silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from vqrae.model.encoders import FAMILIES, encoder_family
from vqrae.model.quantizers import FIRST_KIND, KINDS, quantizer_config
from vqrae.model.quantizers.config import QuantizerConfig
from vqrae.runtimes.json_text import Record
from vqrae.runtimes.outputs import file_name

_Mean = Annotated[float, Field(ge=-1e3, le=1e3)]
_Deviation = Annotated[float, Field(ge=1e-6, le=1e3)]
_Width = Annotated[int, Field(gt=0, le=2**14)]
_Side = Annotated[int, Field(gt=0, le=2**14)]


def _unknown(table: Mapping[str, object]) -> PydanticCustomError:
    *others, last = map(repr, table)
    listed = f"{', '.join(others)} or {last}" if others else last
    return PydanticCustomError("unknown", f"Input should be {listed}")


class EncoderConfig(Record):
    """A vision encoder."""

    family: str
    """Its row in `vqrae.model.encoders.FAMILIES`: the `model_type` of the vision network."""
    network: dict[str, Any]
    """The network's own configuration, as in its `config.json`; see `EncoderFamily.checked`."""
    image_mean: tuple[_Mean, _Mean, _Mean] = (0.5, 0.5, 0.5)
    """Per-channel mean that the network was trained with, for pixels in [0, 1]."""
    image_std: tuple[_Deviation, _Deviation, _Deviation] = (0.5, 0.5, 0.5)
    """Per-channel standard deviation that the network was trained with, for pixels in [0, 1]."""

    @field_validator("family")
    @classmethod
    def _of_the_table(cls, name: str) -> str:
        if name not in FAMILIES:
            raise _unknown(FAMILIES)
        return name

    @field_validator("network")
    @classmethod
    def _nothing_but_a_network(cls, values: dict[str, Any], known: ValidationInfo) -> dict[str, Any]:
        if "family" in known.data:  # what is wrong with the family is told already
            encoder_family(known.data["family"]).checked(values)
        return values


class DecoderConfig(Record):
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


class VQRAEConfig(Record):
    """A whole tokenizer."""

    name: Annotated[str, AfterValidator(file_name)]
    """Short name; bundles are named after it, so that it has to be one that files can have."""
    image_size: _Side
    """Side of the square input and output, in pixels."""
    encoder: EncoderConfig
    quantizer: SerializeAsAny[QuantizerConfig]
    decoder: DecoderConfig

    @field_validator("quantizer", mode="before")
    @classmethod
    def _of_its_kind(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kind = values.get("kind", FIRST_KIND)
        if not isinstance(kind, str) or kind not in KINDS:
            problem = InitErrorDetails(type=_unknown(KINDS), loc=("kind",), input=kind)
            raise ValidationError.from_exception_data("quantizer", [problem])
        return quantizer_config(kind).model_validate(values)

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
