"""The one table of precisions: what each is made of, and every limit that a bundle of it must keep; and what was built.

Nobody asks for a precision by its name: who needs to know something of one reads its row. A new precision is a row
here, and the form that its graphs are traced in (`export/form.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from vqrae.runtimes.json_text import Record

MIXED_BELOW = 0.5
"""Share of the multiplications below which INT8 is called mixed."""

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


class KeptFloat(Record):
    """A layer that was kept in float, and why."""

    layer: str
    reason: str


class Budget(Record):
    """What a user allows INT8 to cost, where that is not what its gate allows; None leaves the gate's limit."""

    max_excess_distortion: float | None = None
    """Fraction: 0.0005 is 0.05 %."""
    min_token_agreement: float | None = None
    """Fraction."""
    max_source_psnr_drop_db: float | None = None


class Precision(Record):
    """The precision that was really built."""

    name: PrecisionName
    kept_float: tuple[KeptFloat, ...] = ()
    int8_share: float | None = None
    """Of an INT8 bundle: the share of its graphs' multiplications that INT8 does, read back from the artifacts."""
    budget: Budget | None = None

    @property
    def kind(self) -> PrecisionKind:
        """Its row in the table."""
        return PRECISIONS[self.name]

    @property
    def limits(self) -> Limits:
        """What a bundle must keep: its precision's limits, or of those what the user's budget says instead."""
        limits = self.kind.limits
        return limits if self.budget is None else replace(limits, **self.budget.model_dump(exclude_none=True))

    @property
    def title(self) -> str:
        """`FP32`, `FP16`, `INT8`, `INT8 weights`; `mixed 41%` where INT8 multiplies only that share."""
        mixed = self.int8_share is not None and self.int8_share < MIXED_BELOW
        kind, _, stored = self.name.partition("-")
        return f"mixed {self.int8_share:.0%}" if mixed else f"{kind.upper()} {stored}".strip()
