"""The configuration of each kind of quantizer, read without torch; for the marks see `vqrae.model.config`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from vqrae.model.quantizers import FIRST_KIND
from vqrae.runtimes.json_text import Record


class QuantizerConfig(Record):
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
