"""Configuration of a VQRAE tokenizer; its presets are in `vqrae.config`.

Every field has a docstring with its unit and its source: [P] the paper (arXiv 2511.23386), [S] SimVQ's official code,
[I] our inference where the paper is silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from vqrae.model.encoders import FAMILIES, encoder_family
from vqrae.model.quantizers import FIRST_KIND, KINDS, quantizer_config
from vqrae.runtimes.names import file_name

_Mean = Annotated[float, Field(ge=-1e3, le=1e3)]
_Deviation = Annotated[float, Field(ge=1e-6, le=1e3)]
_Width = Annotated[int, Field(gt=0, le=2**14)]
_Side = Annotated[int, Field(gt=0, le=2**14)]


class StrictConfig(BaseModel):
    """Base of all configurations: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _unknown(table: Mapping[str, object]) -> PydanticCustomError:
    *others, last = map(repr, table)
    listed = f"{', '.join(others)} or {last}" if others else last
    return PydanticCustomError("unknown", f"Input should be {listed}")


class EncoderConfig(StrictConfig):
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


class QuantizerConfig(StrictConfig):
    """What every kind of quantizer says of its codes; a kind adds its own fields."""

    kind: str = FIRST_KIND
    """Its row in `vqrae.model.quantizers.KINDS`; written where it is not the first one."""
    codebook_size: int = Field(16384, gt=1, le=2**24)
    """Number of codes K [P]."""
    code_width: int = Field(1536, gt=0, le=2**14)
    """Width E of a code [P]; the features are projected to it and back."""

    @property
    def starts_among_features(self) -> bool:
        """Whether training begins by placing the codes among projected features."""
        return False

    @model_serializer(mode="wrap")
    def _without_the_first_kind(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in written(self).items() if (name, value) != ("kind", FIRST_KIND)}


class SimVQConfig(QuantizerConfig):
    """The SimVQ codebook [P] §3.2."""

    kind: Literal["simvq"] = FIRST_KIND
    beta: float = Field(0.25, ge=0, le=1e6)
    """Weight of the commitment term [S]."""
    init: Literal["normal", "features"] = "normal"
    """`normal`: codes ~ N(0, E^-0.5), default-initialized W [S]. `features`: codes are centroids (k-means) of the
    training data's projected features and W = identity, which stops the collapse seen at small scale [I]."""

    @property
    def starts_among_features(self) -> bool:
        """See `init`."""
        return self.init == "features"


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
