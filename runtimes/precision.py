"""The one table of precisions: what each is made of, and every limit that a bundle of it must keep.

Nobody asks for a precision by its name: who needs to know something of one reads its row. A new precision is a row
here, and the form that its graphs are traced in (`export/form.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

NumberType = Literal["fp32", "fp16", "bf16", "int16", "int8", "int6", "int4"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a bundle of one precision must keep; None where a figure is only reported."""

    max_excess_distortion: float
    """Fraction: 0.0001 is 0.01 %."""
    min_token_agreement: float | None = None
    """Fraction."""
    max_unexplained_mismatches: int | None = None
    min_decode_psnr_db: float
    max_source_psnr_drop_db: float
    speedup_above: float | None = None
    """Times as fast as the fastest float precision of its format: each graph must be faster than that."""
    min_codebook_coverage: float | None = None
    """Told, not judged: the share of the codes below which calibration images are of another domain, or too few."""
    search_share: float = 0.8
    """Share of a budget that the search for a plan may use: other images cost a little more or less."""


@dataclass(frozen=True, kw_only=True)
class PrecisionKind:
    """One row of the table."""

    weights: NumberType
    """What the weights of matrix products are stored in."""
    activations: NumberType
    """What their other inputs are, and so what they multiply in."""
    needs_images: bool = False
    """Whether ranges are observed on calibration images."""
    limits: Limits

    @property
    def quantized(self) -> bool:
        """Whether weights are whole numbers: a plan decides where, layer by layer."""
        return self.weights.startswith("int")

    @property
    def integer_products(self) -> bool:
        """Whether whole numbers are multiplied, not only stored."""
        return self.quantized and self.activations.startswith("int")

    @property
    def must_be_faster(self) -> bool:
        """Whether it is judged on speed too; where only weights are whole numbers, size is the gain."""
        return self.limits.speedup_above is not None


PRECISIONS: dict[str, PrecisionKind] = {
    "fp32": PrecisionKind(
        weights="fp32",
        activations="fp32",
        limits=Limits(
            max_excess_distortion=1e-6,
            min_token_agreement=0.999,
            max_unexplained_mismatches=0,
            min_decode_psnr_db=60,
            max_source_psnr_drop_db=0.01,
        ),
    ),
    "fp16": PrecisionKind(
        weights="fp16",
        activations="fp16",
        limits=Limits(
            max_excess_distortion=1e-4,
            min_token_agreement=0.98,
            min_decode_psnr_db=45,
            max_source_psnr_drop_db=0.02,
        ),
    ),
    "int8": PrecisionKind(
        weights="int8",
        activations="int8",
        needs_images=True,
        limits=Limits(
            max_excess_distortion=2e-3,
            min_decode_psnr_db=35,
            max_source_psnr_drop_db=0.1,
            speedup_above=1,
            min_codebook_coverage=0.1,
        ),
    ),
    "int8-weights": PrecisionKind(
        weights="int8",
        activations="fp32",
        limits=Limits(max_excess_distortion=2e-3, min_decode_psnr_db=35, max_source_psnr_drop_db=0.1),
    ),
}
"""Name -> row. `int8` multiplies whole numbers; `int8-weights` stores weights in INT8 and multiplies floats."""


def _known(name: object) -> str:
    if isinstance(name, str) and name in PRECISIONS:
        return name
    *others, last = map(repr, PRECISIONS)
    expected = f"{', '.join(others)} or {last}"
    raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})


PrecisionName = Annotated[str, PlainValidator(_known), WithJsonSchema({"enum": list(PRECISIONS), "type": "string"})]
"""A key of the table."""


def quantized_names() -> tuple[str, ...]:
    """The precisions that a plan decides, layer by layer."""
    return tuple(name for name, kind in PRECISIONS.items() if kind.quantized)
